/* Selectors, plots and their tables. Plain JavaScript, no network, no storage. */
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data-json").textContent);
  const byId = (id) => document.getElementById(id);
  const narrow = () => window.matchMedia("(max-width: 40rem)").matches;

  /* ---- numbers for people, the twins of energylens/units.py ---- */
  const significant = (value, digits = 3) => {
    if (value === null || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    let places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
    const rounded = Number(value.toFixed(places));
    if (places && Math.floor(Math.log10(Math.abs(rounded))) > Math.floor(Math.log10(Math.abs(value)))) places -= 1;
    return value.toFixed(places);
  };
  const scaled = (value, scale) => {
    if (value === null) return "–";
    const [factor, unit] = scale.find(([f]) => Math.abs(value) >= f * 0.9995) ?? scale[scale.length - 1];
    return `${significant(value / factor)}\u00a0${unit}`;
  };
  const energy = (v) => scaled(v, [[1e9, "GJ"], [1e6, "MJ"], [1e3, "kJ"], [1, "J"], [1e-3, "mJ"]]);
  const seconds = (v) => (v >= 120 ? `${significant(v / 60)}\u00a0min` : scaled(v, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]));
  const percent = (v) => `${(100 * v).toFixed(Math.abs(v) < 0.01 ? 2 : Math.abs(v) < 1 ? 1 : 0)}\u00a0%`;

  /* ---- small helpers for the page ---- */
  const element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const badge = (name) => element("span", { class: `badge ${name}` }, name.charAt(0).toUpperCase() + name.slice(1));
  const unique = (values) => [...new Set(values)];

  const fill = (select, options, wanted) => {
    const before = wanted ?? select.value;
    select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    select.value = options.some(([value]) => value === before) ? before : options[0][0];
  };

  const table = (node, captionNode, caption, heads, rows) => {
    const head = element("thead", {}, element("tr", {}, ...heads.map(([text, number]) =>
      element("th", { scope: "col", class: number ? "num" : "" }, text))));
    const body = element("tbody", {}, ...rows.map(({ cells, mark }) =>
      element("tr", mark ? { class: "ours" } : {}, ...cells.map((cell, i) => {
        const attributes = { class: heads[i][1] ? "num" : "" };
        if (i === 0) attributes.scope = "row";
        const [text, extra] = Array.isArray(cell) ? cell : [cell, ""];
        if (extra) attributes.class += ` ${extra}`;
        return element(i === 0 ? "th" : "td", attributes, text);
      }))));
    captionNode.replaceChildren(...caption);
    node.replaceChildren(head, body);
  };

  /* ---- plots follow the colours of the page, also when they change ---- */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const drawings = [];
  const redraw = () => {
    drawings.forEach((draw) => draw());
    document.querySelectorAll(".plot").forEach((node) => node.data && Plotly.Plots.resize(node));
  };
  const axis = (title, extra = {}) => ({
    title: { text: title, font: { size: 13, color: colour("soft") }, standoff: 12 },
    gridcolor: colour("line"), linecolor: colour("soft"), tickcolor: colour("line"),
    tickfont: { color: colour("soft"), size: 12 }, zeroline: false, ticks: "outside",
    fixedrange: true, automargin: true, ...extra,
  });
  const layoutOf = (extra) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 13 },
    margin: { l: 60, r: 24, t: 12, b: 54 }, dragmode: false, hovermode: "closest",
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink"), size: 13 }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12, color: colour("soft") }, bgcolor: "rgba(0,0,0,0)" },
    ...extra,
  });
  const config = { displayModeBar: false, responsive: true, showTips: false };
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross"];

  /* ---- energy against latency ---- */
  const tradeoff = () => {
    const all = data.tradeoff.scenarios;
    const [model, hardware, work, gpus] = ["t-model", "t-hardware", "t-workload", "t-gpus"].map(byId);
    let scenario = all[data.tradeoff.first];

    const gpuChoices = () => {
      const counts = unique(scenario.gpus).filter((g) => scenario.gpus.filter((x) => x === g).length > 1);
      fill(gpus, [["0", "any number"], ...counts.map((g) => [String(g), String(g)])], String(scenario.default_gpus));
    };
    const choose = (changed) => {
      const models = unique(all.map((s) => s.model)).sort();
      if (!changed) fill(model, models.map((m) => [m, m]), scenario.model);
      const types = unique(all.filter((s) => s.model === model.value).map((s) => s.hardware)).sort();
      if (changed !== "work" && changed !== "gpus") fill(hardware, types.map((h) => [h, h]), changed ? undefined : scenario.hardware);
      const mine = all.map((s, i) => [s, i]).filter(([s]) => s.model === model.value && s.hardware === hardware.value);
      if (changed !== "work" && changed !== "gpus") fill(work, mine.map(([s, i]) => [String(i), s.workload]), String(changed ? mine[0][1] : data.tradeoff.first));
      if (changed !== "gpus") { scenario = all[Number(work.value)]; gpuChoices(); }
      show();
    };

    const optima = () => {
      const wanted = Number(gpus.value);
      const among = scenario.gpus.map((g, i) => [g, i]).filter(([g]) => !wanted || g === wanted).map(([, i]) => i);
      const least = among.reduce((a, b) => (scenario.energy[b] < scenario.energy[a] ? b : a));
      const fast = among.reduce((a, b) => (scenario.latency[b] < scenario.latency[a]
        || (scenario.latency[b] === scenario.latency[a] && scenario.energy[b] < scenario.energy[a]) ? b : a));
      return { among, least, fast };
    };

    const show = () => {
      const { among, least, fast } = optima();
      const { layout, energy: e, latency: t } = scenario;
      const reading = byId("t-reading");
      const name = (i, style) => element("strong", { class: style }, `${layout[i]} on ${scenario.gpus[i]} GPU${scenario.gpus[i] > 1 ? "s" : ""}`);
      const values = (i) => ` (${energy(e[i])}, ${seconds(t[i])})`;
      if (least === fast) {
        reading.replaceChildren("Here ", name(least, "least"), values(least), " is both the fastest and the one that uses least energy.");
      } else {
        reading.replaceChildren(
          "Least energy: ", name(least, "least"), values(least), ". Fastest: ", name(fast, "fast"), values(fast), ". Choosing for speed saves ",
          element("strong", {}, `${percent(1 - t[fast] / t[least])} of the time`), " and costs ",
          element("strong", {}, `${percent(e[fast] / e[least] - 1)} more energy`), ".");
      }
      byId("t-origin").replaceChildren(badge(scenario.provenance), `${scenario.model} on ${scenario.hardware}, ${scenario.workload}.`);
      const order = [...among].sort((a, b) => e[a] - e[b]);
      table(byId("t-table"), byId("t-caption"), [badge(scenario.provenance), ` ${scenario.model} on ${scenario.hardware}, ${scenario.workload}`],
        [["Layout", false], ["GPUs", true], [scenario.energy_name, true], ["against least", true], [scenario.latency_name, true]],
        order.map((i) => ({ mark: i === least, cells: [layout[i], String(scenario.gpus[i]), energy(e[i]), i === least ? "–" : `+${percent(e[i] / e[least] - 1)}`, seconds(t[i])] })));
      draw();
    };

    const front = (among) => {
      const sorted = [...among].sort((a, b) => scenario.latency[a] - scenario.latency[b] || scenario.energy[a] - scenario.energy[b]);
      let best = Infinity;
      return sorted.filter((i) => (scenario.energy[i] < best ? ((best = scenario.energy[i]), true) : false));
    };

    const draw = () => {
      const { among, least, fast } = optima();
      const { layout, energy: e, latency: t, gpus: g } = scenario;
      const line = front(among);
      const named = new Set(among.length <= 6 ? among : line);
      const counts = unique(g).sort((a, b) => a - b);
      const far = (values) => Math.max(...values) / Math.min(...values) > 12;
      const log = { x: far(t), y: far(e) };
      const traces = [{
        x: line.map((i) => t[i]), y: line.map((i) => e[i]), mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { color: colour("soft"), width: 1, dash: "dot" },
      }];
      counts.forEach((count, k) => {
        const mine = g.map((x, i) => [x, i]).filter(([x]) => x === count).map(([, i]) => i);
        const faded = !mine.some((i) => among.includes(i));
        traces.push({
          x: mine.map((i) => t[i]), y: mine.map((i) => e[i]), mode: "markers+text", name: `${count} GPU${count > 1 ? "s" : ""}`,
          text: mine.map((i) => (named.has(i) && i !== least && i !== fast ? layout[i] : "")),
          textposition: "top center", textfont: { size: 11, color: colour("soft") }, cliponaxis: false,
          customdata: mine.map((i) => `<b>${layout[i]}</b>, ${count} GPU${count > 1 ? "s" : ""}<br>${energy(e[i])}<br>${seconds(t[i])}`),
          hovertemplate: "%{customdata}<extra></extra>", opacity: faded ? 0.28 : 1,
          marker: { size: 10, symbol: SYMBOLS[k % SYMBOLS.length], color: colour(`s${(k % 5) + 1}`), line: { color: colour("ground"), width: 1 } },
        });
      });
      const at = (i) => ({ x: log.x ? Math.log10(t[i]) : t[i], y: log.y ? Math.log10(e[i]) : e[i] });
      const ring = (i, tone) => ({
        x: [t[i]], y: [e[i]], mode: "markers", hoverinfo: "skip", showlegend: false,
        marker: { size: 21, symbol: "circle-open", color: colour(tone), line: { width: 2.5 } },
      });
      traces.push(ring(least, "accent"));
      const label = (i, text, tone, shift) => ({
        ...at(i), text: `<b>${text}</b><br>${layout[i]}`, showarrow: false, font: { size: 12, color: colour(tone) }, ...shift,
      });
      const middle = (Math.min(...t) + Math.max(...t)) / 2;
      const side = (i) => (t[i] > middle ? { xanchor: "right", xshift: -16, align: "right" } : { xanchor: "left", xshift: 16, align: "left" });
      const annotations = [label(least, least === fast ? "least energy and fastest" : "least energy", "accent", { ...side(least), yshift: -3, yanchor: "top" })];
      const shapes = [];
      if (least !== fast) {
        traces.push(ring(fast, "second"));
        annotations.push(label(fast, "fastest", "second", { ...side(fast), yanchor: "bottom", yshift: -6 }));
        shapes.push({ type: "line", x0: t[fast], x1: t[fast], y0: e[least], y1: e[fast], line: { color: colour("second"), width: 1.5 } });
        shapes.push({ type: "line", x0: t[fast], x1: t[least], y0: e[least], y1: e[least], line: { color: colour("second"), width: 1, dash: "dot" } });
        const half = log.y ? Math.log10(Math.sqrt(e[fast] * e[least])) : (e[fast] + e[least]) / 2;
        annotations.push({
          x: at(fast).x, y: half, text: `<b>+${percent(e[fast] / e[least] - 1)}</b>`, showarrow: false,
          font: { size: 13, color: colour("second") }, yanchor: "middle",
          ...(narrow() ? { xanchor: "left", xshift: 6 } : { xanchor: "right", xshift: -8 }),
        });
      }
      const pad = (values, isLog, left = 1) => {
        const [low, high] = [Math.min(...values), Math.max(...values)].map((v) => (isLog ? Math.log10(v) : v));
        const room = (high - low || Math.abs(high) || 1) * 0.12;
        return [isLog ? low - left * room : Math.max(0, low - left * room), high + room];
      };
      Plotly.react("plot-tradeoff", traces, layoutOf({
        xaxis: axis(scenario.latency_name, { type: log.x ? "log" : "linear", tickformat: "~s", ticksuffix: "s", range: pad(t, log.x, narrow() ? 1 : 1.6), nticks: narrow() ? 4 : 8 }),
        yaxis: axis(scenario.energy_name, { type: log.y ? "log" : "linear", tickformat: "~s", ticksuffix: "J", range: pad(e, log.y), nticks: 6 }),
        annotations, shapes, margin: { l: 60, r: 24, t: 40, b: 54 },
      }), config);
    };

    model.addEventListener("change", () => choose("model"));
    hardware.addEventListener("change", () => choose("hardware"));
    work.addEventListener("change", () => choose("work"));
    gpus.addEventListener("change", () => choose("gpus"));
    choose();
    drawings.push(draw);
  };

  /* ---- the law of one pair ---- */
  const law = () => {
    const [model, hardware] = ["l-model", "l-hardware"].map(byId);
    const show = (changed) => {
      if (!changed) fill(model, unique(data.laws.map((p) => p.model)).sort().map((m) => [m, m]));
      if (changed !== "hardware") fill(hardware, data.laws.filter((p) => p.model === model.value).map((p) => [p.hardware, p.hardware]));
      const pair = data.laws.find((p) => p.model === model.value && p.hardware === hardware.value);
      byId("l-meta").replaceChildren(...pair.provenance.map(badge), ` fitted on ${pair.rows} rows, mean error ${pair.mape} with each row left out in turn`);
      byId("l-formula").textContent = pair.formula;
      table(byId("l-table"), byId("l-caption"), [...pair.provenance.map(badge), " Parameters with 95 % intervals"],
        [["Name", false], ["Value", true], ["95 % interval", true], ["Unit", false], ["Meaning", false]],
        pair.parameters.map((p) => ({ cells: [p.name, p.value, p.ok ? `${p.lo} to ${p.hi}` : ["not identifiable", "unknown"], p.unit.replace(/\^2/g, "²") || "–", p.meaning] })));
    };
    model.addEventListener("change", () => show("model"));
    hardware.addEventListener("change", () => show("hardware"));
    show();
  };

  /* ---- predicted against measured ---- */
  const check = () => {
    const { measured, predicted, fitted, label } = data.points;
    const low = Math.floor(Math.log10(Math.min(...measured, ...predicted)) * 2) / 2;
    const high = Math.ceil(Math.log10(Math.max(...measured, ...predicted)) * 2) / 2;
    const draw = () => {
      const ends = [10 ** low, 10 ** high];
      const points = (keep, name, tone, size) => {
        const mine = measured.map((_, i) => i).filter(keep);
        return {
          x: mine.map((i) => measured[i]), y: mine.map((i) => predicted[i]), mode: "markers", name: `${name} (${mine.length} drawn)`,
          customdata: mine.map((i) => `${label[i]}<br>measured ${energy(measured[i])}, predicted ${energy(predicted[i])}<br>error ${percent(predicted[i] / measured[i] - 1)}`),
          hovertemplate: "%{customdata}<extra></extra>", marker: { size, color: colour(tone), opacity: 0.5, line: { width: 0 } },
        };
      };
      const told = fitted.length > 0;
      const traces = [
        { x: [...ends, ends[1], ends[0]], y: [1.1 * ends[0], 1.1 * ends[1], 0.9 * ends[1], 0.9 * ends[0]], fill: "toself", mode: "lines", line: { width: 0 }, fillcolor: colour("accent-soft"), hoverinfo: "skip", showlegend: false },
        { x: ends, y: ends, mode: "lines", line: { color: colour("soft"), width: 1 }, hoverinfo: "skip", showlegend: false },
      ];
      if (told) traces.push(points((i) => fitted[i], "rows it was fitted on", "second", 7));
      traces.push(points((i) => !told || !fitted[i], told ? "unseen rows" : "rows", "accent", 4));
      const energyAxis = (title) => axis(title, { type: "log", range: [low, high], dtick: 1, tickformat: "~s", ticksuffix: "J" });
      Plotly.react("plot-check", traces, layoutOf({
        xaxis: energyAxis(data.truth), yaxis: energyAxis("Predicted energy"), margin: { l: 60, r: 24, t: 40, b: 54 },
      }), config);
    };
    draw();
    drawings.push(draw);
  };

  /* ---- scores against the rows that a method learned from ---- */
  const SCORES = { top1: "Top-1", mean_regret: "Mean regret", mape: "Mean absolute error (MAPE)" };
  const TONES = ["s2", "s3", "s4", "s5", "soft"];
  const curves = () => {
    const { budgets, classes } = data.curves;
    const [choice, score] = ["c-class", "c-score"].map(byId);
    fill(choice, classes.map((c) => [c.name, `${c.name} · ${c.title}`]));
    fill(score, Object.entries(SCORES));
    const draw = () => {
      const key = score.value;
      let others = 0;
      const traces = classes.find((c) => c.name === choice.value).lines
        .filter((line) => line[key].some((v) => v !== null))
        .map((line, i) => {
          const tone = line.ours ? "accent" : TONES[others++ % TONES.length];
          return {
            x: budgets, y: line[key], name: line.name, mode: "lines+markers", connectgaps: true,
            text: line[key].map((v) => (v === null ? "" : percent(v))), hovertemplate: "%{x} rows: %{text}<extra>%{fullData.name}</extra>",
            line: { color: colour(tone), width: line.ours ? 3 : 1.5, dash: line.ours && i > 0 ? "dash" : "solid" },
            marker: { color: colour(tone), size: line.ours ? 9 : 7, symbol: SYMBOLS[i % SYMBOLS.length] },
          };
        });
      Plotly.react("plot-curves", traces, layoutOf({
        xaxis: axis("Rows of a pair that it learned from", { type: "log", tickvals: budgets, ticktext: budgets.map(String) }),
        yaxis: axis(SCORES[key], { tickformat: ".0%", rangemode: key === "top1" ? "normal" : "tozero" }),
        margin: { l: 60, r: 24, t: 40, b: 54 },
      }), config);
    };
    choice.addEventListener("change", draw);
    score.addEventListener("change", draw);
    draw();
    drawings.push(draw);
  };

  if (data.tradeoff) tradeoff();
  if (data.curves) curves();
  if (data.laws.length) law();
  if (data.points) check();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.matchMedia("print").addEventListener("change", redraw);
})();
