"""The driver of a run: sweep -> plan -> launches that are missing -> nodes of Ray -> run folder.

The run folder is the only state, and the driver its only writer. A run that is started again
reads which tasks are done and does the rest; two drivers cannot work on one folder at once.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.fleet.budget import Budget
from harness.fleet.cluster import ray_cluster
from harness.fleet.dispatch import Dispatcher
from harness.fleet.inventory import probe_again, take_inventory
from harness.fleet.keeper import Keeper
from harness.fleet.ledger import Ledger
from harness.fleet.mailbox import open_mailbox
from harness.fleet.nodes import NodeFacts
from harness.fleet.patience import Patience
from harness.fleet.placing import unplaced
from harness.fleet.progress import ProgressSink, Quiet
from harness.fleet.rescue import address_of, take_in_rescued
from harness.fleet.schedule import Schedule, ordered
from harness.fleet.stopping import StopSignals
from harness.fleet.watch import Scouts, Watch
from harness.fleet.works import Works, missing_launches
from harness.plan import Plan, RememberingEstimator, default_estimator, make_plan
from harness.spec import Sweep, load_sweep
from harness.spec.facts import load_prices
from harness.store import RunFolder, StoreError, code_version


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes
    ----------
    folder, location
        The run folder on this machine, and its address: the same, or that of an object store.
    planned, already_done, done, failed, lost
        Tasks in the plan, with a row from earlier runs, with a row from now (also one that says
        why it failed), with such a row from now, and of launches that were given up now, which
        have no row and are tried again by the next run.
    flagged
        Reason code -> rows measured now that carry it.
    seconds, energy_j
        Wall time of this run, and energy of one run of every task done now (None where no
        task has one).
    skips
        Reason -> configurations that the plan left out.
    stopped
        Why it ended before everything was done; empty if it did not.
    drawn_energy_kwh
        What the GPUs of measured launches drew, by their counters; None without a sensor.
    gpu_hours
        Time that launches held, multiplied by their GPUs.
    unreached
        Tasks that their launch had no time for: no row, the next run does them.
    unplaced
        What no node of the cluster can do, in words.
    """

    folder: Path
    location: str
    planned: int
    already_done: int
    done: int
    failed: int
    lost: int
    flagged: dict[str, int]
    seconds: float
    energy_j: float | None
    skips: dict[str, int]
    stopped: str = ""
    drawn_energy_kwh: float | None = None
    gpu_hours: float = 0.0
    unreached: int = 0
    unplaced: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "folder": self.location,
            "planned": self.planned,
            "already_done": self.already_done,
            "done": self.done,
            "failed": self.failed,
            "lost": self.lost,
            "flagged": self.flagged,
            "seconds": round(self.seconds, 3),
            "energy_j": self.energy_j,
            "skips": self.skips,
            "stopped": self.stopped,
            "drawn_energy_kwh": self.drawn_energy_kwh,
            "gpu_hours": round(self.gpu_hours, 6),
            "unreached": self.unreached,
            "unplaced": list(self.unplaced),
        }


def run_sweep(
    sweep_path: Path | str,
    out: Path | str,
    *,
    progress: ProgressSink | None = None,
    workers: int | None = None,
    budget: Budget | None = None,
    patience: Patience | None = None,
) -> RunSummary:
    """Do a sweep, or what is missing of it.

    Parameters
    ----------
    sweep_path
        Sweep file.
    out
        Run folder, or its s3:// address; made if missing, resumed if not.
    progress
        Where to report to.
    workers
        Processes on this machine; ignored when RAY_ADDRESS names a cluster.
    budget
        Limits of this run, before those of the sweep.
    patience
        How long to wait for what.

    Raises
    ------
    EnergyLensError
        On anything that the user has to mend; what was measured stays in the folder.
    KeyboardInterrupt
        Passed on, after launches under way were finished and the folder was left clean.
    """
    started = time.monotonic()
    sink = progress or Quiet()
    sweep = load_sweep(Path(sweep_path))
    limits = (budget or Budget()).over(Budget(**sweep.fleet.limits()))
    folder = RunFolder.create(out, {})
    location = address_of(folder)
    memory = RememberingEstimator(default_estimator(sweep.engine), folder.path / "plan.parquet")
    plan = make_plan(sweep, estimator=memory)
    with folder.lock():
        memory.save(folder.place.write)
        del memory
        _refuse_other_sweep(folder, sweep)
        manifest = _manifest(sweep, plan)
        folder.update_manifest(manifest)
        take_in_rescued(folder, location)
        specs = missing_launches(sweep, plan, folder.done_task_ids())
        missing = sum(len(s.workloads) for s in specs)
        already = plan.task_count - missing
        folder.append_event(
            "run_started",
            sweep=sweep.name,
            tasks_planned=plan.task_count,
            tasks_already_done=already,
            launches=len(specs),
            # The manifest tells of the latest run; rows of earlier ones may be of other code.
            git_commit=manifest["git_commit"],
            versions=manifest["versions"],
        )
        sink.started(plan.task_count, already)
        signals = StopSignals()
        run = _Run(folder, location, sink, sweep, plan, limits, signals, started)
        try:
            if specs:
                run.work(specs, already, workers, patience or Patience())
            signals.raise_if_asked()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # Whatever goes wrong while cleaning up, the first error is the one to hear of.
            with suppress(Exception):
                run.close("run_interrupted" if interrupted else "run_failed", error)
            raise
        run.close("run_stopped" if run.stopped else "run_finished")
    return run.summary(already)


class _Run:
    """One run from the first node to the last row."""

    def __init__(
        self,
        folder: RunFolder,
        location: str,
        sink: ProgressSink,
        sweep: Sweep,
        plan: Plan,
        budget: Budget,
        signals: StopSignals,
        started_s: float,
    ) -> None:
        self.stopped = ""
        self._unplaced: tuple[str, ...] = ()
        self._folder = folder
        self._sink = sink
        self._sweep = sweep
        self._plan = plan
        self._budget = budget
        self._signals = signals
        self._started_s = started_s
        self._location = location
        self._ledger: Ledger | None = None

    def work(
        self,
        specs: Sequence[Any],
        already: int,
        workers: int | None,
        patience: Patience,
    ) -> None:
        """Do launches on the nodes of Ray."""
        import ray

        with ray_cluster(workers), self._signals.installed():
            inventory = take_inventory()
            works = Works(self._sweep, self._plan, specs, inventory)
            ledger = self._ledger = Ledger(
                Keeper(self._folder, self._location, self._sink),
                self._sink,
                sweep=self._sweep.name,
                specs=works.specs,
                planned=self._plan.task_count,
                already_done=already,
                budget=self._budget,
                prices=load_prices(self._sweep),
                asked_to_stop=self._signals.reason,
                started_s=self._started_s,
            )
            ledger.see(inventory)
            self._folder.update_manifest({"inventory": [facts.to_dict() for facts in inventory]})
            self._refuse_unplaceable(works, inventory)
            schedule = Schedule(
                ordered(works.all, self._sweep.measuring.seed) if works.real else works.all,
                inventory,
                self._sweep.fleet.isolation,
            )
            scouts = Scouts(probe_again)
            with Watch(ray.nodes) as watch:
                dispatcher = Dispatcher(
                    schedule,
                    {facts.node_id: facts for facts in inventory},
                    job=works.job,
                    split=works.split,
                    models=works.models(),
                    listener=ledger,
                    mailbox=open_mailbox(),
                    watch=watch,
                    scouts=scouts,
                    isolation=self._sweep.fleet.isolation,
                    patience=patience,
                )
                try:
                    self.stopped = dispatcher.run()
                    if works.real:
                        dispatcher.tidy()
                finally:
                    scouts.close()
                    ledger.close()
            ledger.raise_for_problems()

    def _refuse_unplaceable(self, works: Works, inventory: Sequence[NodeFacts]) -> None:
        """Say at once what no node can do; the rest goes on.

        Raises
        ------
        RunError
            If that is everything.
        """
        found = unplaced(works, inventory)
        self._unplaced = tuple(each.why for each in found)
        for each in found:
            self._folder.append_event(
                "unplaceable", need=each.need, tasks=each.tasks, detail=each.why
            )
            self._sink.message(f"{each.tasks} tasks cannot be placed: {each.why}")
        if sum(each.launches for each in found) == sum(len(s) for s in works.specs.values()):
            raise RunError(
                f"no node of this cluster can do any of it: {found[0].why}",
                where=f"{len(inventory)} nodes, {len(works.all)} launches",
                fix="look at `energylens doctor --cluster`; mend the nodes, add some, or choose "
                "other hardware in the sweep",
            )

    def close(self, kind: str, error: BaseException | None = None) -> None:
        """Compact what is there and write the last event, whatever happened."""
        seconds = time.monotonic() - self._started_s
        why = {} if error is None else {"class": type(error).__name__, "detail": str(error)}
        if self.stopped:
            why["reason"] = self.stopped
        ledger = self._ledger
        done, failed = (ledger.done, ledger.failed) if ledger else (0, 0)
        lost = ledger.lost_tasks if ledger else 0
        try:
            rows = self._folder.compact()
            self._folder.append_event("compacted", rows=rows)
            self._folder.append_event(
                kind, done=done, failed=failed, lost=lost, seconds=seconds, **why
            )
        except StoreError:
            if kind == "run_finished":
                raise
            # The disk is what failed: the rows on it stay, and the first error says so.
        self._sink.finished(done, failed, seconds)

    def summary(self, already: int) -> RunSummary:
        """What this run did."""
        ledger = self._ledger
        return RunSummary(
            folder=self._folder.path,
            location=self._folder.place.name,
            planned=self._plan.task_count,
            already_done=already,
            done=ledger.done if ledger else 0,
            failed=ledger.failed if ledger else 0,
            lost=ledger.lost_tasks if ledger else 0,
            flagged=dict(ledger.flagged) if ledger else {},
            seconds=time.monotonic() - self._started_s,
            energy_j=ledger.energy_j if ledger else None,
            skips=self._plan.skipped,
            stopped=self.stopped,
            drawn_energy_kwh=ledger.kwh if ledger else None,
            gpu_hours=ledger.gpu_s / 3600 if ledger else 0.0,
            unreached=ledger.unreached if ledger else 0,
            unplaced=self._unplaced,
        )


def _refuse_other_sweep(folder: RunFolder, sweep: Sweep) -> None:
    """A run folder belongs to one sweep by name; its content may grow."""
    for event in folder.events():
        if event.get("kind") == "run_started" and event.get("sweep") != sweep.name:
            raise RunError(
                f"this folder holds the sweep {event.get('sweep')!r}, not {sweep.name!r}",
                where=folder.place.name,
                fix="choose another folder with --out, or the sweep that it was made with",
            )


def _manifest(sweep: Sweep, plan: Plan) -> dict[str, object]:
    from importlib.metadata import version

    packages = ["energylens", "ray", "aiconfigurator-core", "pyarrow", "pandas", "numpy"]
    packages += ["torch", "transformers"] if sweep.engine == "transformers" else []
    return {
        "sweep_name": sweep.name,
        "sweep": sweep.text,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "git_commit": code_version()[1],
        "driver": {"host": platform.node(), "platform": platform.platform()},
        "tasks_planned": plan.task_count,
        "skips": plan.skipped,
    }
