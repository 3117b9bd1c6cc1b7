"""GPU acceptance: one script that measures a fixed set of workloads on a CUDA machine.

    machine -> sensor -> plan -> slices of launches -> table, traces, summary, report

Needs what `harness.launch` needs and nothing more; resumes where it was stopped.
"""
