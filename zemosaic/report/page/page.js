"use strict";
// Draws the charts of the run page with Plotly from the data in the page. Labels are this
// page's own, set as text: nothing that comes from a file is ever read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name);
  const known = x => x !== null && x !== undefined;
  const number = (x, digits = 3) => known(x) ? Number(x.toPrecision(digits)).toString() : "unknown";
  const pm = (x, e, digits = 4) => number(x, digits) + (known(e) ? " ± " + number(e, 2) : "");
  const narrow = () => innerWidth < 600;

  function tileText(t) {
    const lines = [t.name];
    if (t.failed) lines.push("failed: " + t.failed);
    data.channels.forEach((channel, c) => {
      const head = data.channels.length > 1 ? channel + ": " : "";
      if (known(t.gain[c])) lines.push(`${head}gain ${pm(t.gain[c], t.gain_err[c])}, ` +
        `offset ${pm(t.offset[c], t.offset_err[c])} ADU`);
    });
    lines.push(t.pairs ? `${t.pairs} measured pairs` : "no measured pair: it stands alone");
    if (t.suspect) lines.push("its pairs contradict the others, or its WCS is off");
    return lines.join("\n");
  }
  function pairText(p) {
    const lines = [`pair ${p.index}: ${data.tiles[p.i].name}`, data.tiles[p.j].name, p.outcome];
    if (p.reason) lines.push(p.reason);
    if (known(p.before)) lines.push(`step before ${number(p.before, 2)} × noise` +
      (known(p.after) ? `, after ${number(p.after, 2)} × noise` : ""));
    if (known(p.residual)) lines.push(`left: ${number(p.residual, 2)} ADU` +
      (known(p.chi) ? `, ${number(p.chi, 2)} standard errors` : ""));
    lines.push(`took ${number(p.seconds, 2)} s`);
    return lines.join("\n");
  }
  function jobText([, stage, index, start, end, bad, what]) {
    const title = data.stages[stage];
    const name = what === null ? `${title} ${index}`
      : data.pairStage === stage ? pairText(data.pairs[what]) : title + ": " + data.tiles[what].name;
    return `${name}\n${bad ? bad + "\n" : ""}from ${number(start, 4)} to ${number(end, 4)} s`;
  }
  const text = key => key[0] === "t" ? tileText(data.tiles[+key.slice(1)])
    : key[0] === "p" ? pairText(data.pairs[+key.slice(1)])
    : key[0] === "j" ? jobText(data.jobs[+key.slice(1)])
    : data.marks[+key.slice(1)].text;

  function show(event) {
    const key = event.points[0].customdata;
    if (!key) return;
    tip.textContent = text(key);
    tip.style.display = "block";
    const { clientX: x, clientY: y } = event.event;
    const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 6);
    const top = y + 14 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }
  const hide = () => { tip.style.display = "none"; };

  function axis(title, more) {
    return { title: { text: title }, automargin: true, gridcolor: colour("line"),
      zerolinecolor: colour("line"), linecolor: colour("line"), ...more };
  }
  function layout(more) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: colour("ink"), family: "system-ui, DejaVu Sans, sans-serif", size: 13 },
      margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: narrow() ? false : "zoom",
      legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, font: { size: 12 } }, ...more,
    };
  }

  // An entry of the legend that is drawn in full strength, however pale the many lines are.
  const inLegend = (name, look) =>
    ({ x: [null], y: [null], name, legendgroup: name, hoverinfo: "skip", ...look });

  // The sky: footprints by group, pairs by what is left of them, widths by their weights.
  const KINDS = [
    ["unmeasured", "not measured", "grey", 0.8], ["measured", "measured, not solved", "sky", 0.6],
    ["good", "agree within 3 standard errors", "blue", 0.5],
    ["fair", "3 to 5 standard errors apart", "orange", 0.9],
    ["bad", "further apart", "red", 1],
  ];
  function kind(p) {
    if (p.outcome !== "measured") return 0;
    if (!known(p.chi)) return 1;
    return p.chi <= 3 ? 2 : p.chi <= 5 ? 3 : 4;
  }
  function sky() {
    const traces = [];
    const placed = data.tiles.filter(t => t.corners.length);
    const groups = [["tiles", "ink", placed.filter(t => t.group === 0 && t.pairs), "solid"],
      ["tiles of other groups", "purple", placed.filter(t => t.group > 0 && t.pairs), "solid"],
      ["tiles that stand alone", "red", placed.filter(t => !t.pairs), "dash"]];
    for (const [name, hue, tiles, dash] of groups) {
      if (!tiles.length) continue;
      const x = [], y = [];
      for (const t of tiles) {
        for (const [a, b] of [...t.corners, t.corners[0]]) { x.push(a); y.push(b); }
        x.push(null); y.push(null);
      }
      const many = tiles.length > 60;
      traces.push({ x, y, mode: "lines", hoverinfo: "skip", fill: many ? "none" : "toself",
        fillcolor: colour(hue) + "14", opacity: many ? 0.35 : 1, showlegend: false,
        legendgroup: name, line: { color: colour(hue), width: hue === "ink" ? 1 : 2, dash } });
      traces.push(inLegend(name, { mode: "lines", line: { color: colour(hue), width: 2, dash } }));
    }
    const middle = data.tiles.map(t => t.corners.length
      ? [0, 1].map(k => t.corners.reduce((sum, c) => sum + c[k], 0) / 4) : null);
    KINDS.forEach(([, what, hue, opacity], k) => {
      const name = "pairs: " + what, dash = k ? "solid" : "dot";
      let named = false;
      for (const weight of [0, 1, 2]) {
        const x = [], y = [], customdata = [];
        data.pairs.forEach((p, n) => {
          if (kind(p) !== k || p.weight !== weight || !middle[p.i] || !middle[p.j]) return;
          for (const f of [0, 0.35, 0.5, 0.65, 1, null]) {
            x.push(f === null ? null : middle[p.i][0] * (1 - f) + middle[p.j][0] * f);
            y.push(f === null ? null : middle[p.i][1] * (1 - f) + middle[p.j][1] * f);
            customdata.push("p" + n);
          }
        });
        if (!x.length) continue;
        const fine = data.pairs.length > 1000 ? 0.4 : 1;
        traces.push({ x, y, customdata, legendgroup: name, opacity, showlegend: false,
          mode: "lines", hoverinfo: "none",
          line: { color: colour(hue), width: fine * [1.2, 2.5, 4.5][weight], dash } });
        named = true;
      }
      if (named) traces.push(inLegend(name, { mode: "lines", line: { color: colour(hue), width: 4,
        dash } }));
    });
    traces.push({ x: placed.map(t => middle[t.index][0]), y: placed.map(t => middle[t.index][1]),
      customdata: placed.map(t => "t" + t.index), mode: "markers", hoverinfo: "none",
      showlegend: false,
      marker: { size: placed.map(t => t.suspect ? 13 : placed.length > 60 ? 5 : 8),
        symbol: placed.map(t => t.suspect ? "x" : "circle"),
        color: placed.map(t => colour(t.suspect ? "red" : "ink")) } });
    if (placed.some(t => t.suspect)) {
      traces.push(inLegend("tiles that contradict the others",
        { mode: "markers", marker: { symbol: "x", size: 11, color: colour("red") } }));
    }
    const corners = placed.flatMap(t => t.corners);
    const [wide, high] = [0, 1].map(k => corners.reduce((top, c) => Math.max(top, c[k]), -Infinity) -
      corners.reduce((low, c) => Math.min(low, c[k]), Infinity));
    const width = document.getElementById("sky").clientWidth - 80;
    const legend = narrow() ? 240 : 120;
    return [traces, layout({ height: Math.min(legend + width * high / wide, 640) || 400,
      xaxis: axis("← east, degrees", { constrain: "domain" }),
      yaxis: axis("degrees, north ↑", { scaleanchor: "x", constrain: "domain" }) })];
  }

  function lanes() {
    const groups = new Map();
    data.jobs.forEach((job, n) => {
      const name = job[5] ? "failed or given up" : data.stages[job[1]];
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push([job, "j" + n]);
    });
    const hues = ["sky", "green", "blue", "purple", "orange"], traces = [];
    const least = data.seconds / 2000; // a job shorter than a pixel is drawn as one
    const failed = "failed or given up"; // on top of the others
    for (const [name, jobs] of [...groups].sort(([a], [b]) => (a === failed) - (b === failed))) {
      const hue = name === failed ? "red" : hues[data.stages.indexOf(name) % 5];
      traces.push({ type: "bar", orientation: "h", name, hoverinfo: "none",
        y: jobs.map(([job]) => job[0]), base: jobs.map(([job]) => job[3]),
        x: jobs.map(([job]) => Math.max(job[4] - job[3], least)), width: 0.8,
        customdata: jobs.map(([, key]) => key), marker: { color: colour(hue), opacity: 1, line: { width: 0 } } });
    }
    for (const [what, symbol, hue] of [["heartbeat", "diamond", "orange"],
      ["slow", "triangle-down", "red"]]) {
      const marks = data.marks.map((m, n) => [m, "m" + n]).filter(([m]) => m.kind === what);
      if (marks.length) traces.push({ x: marks.map(([m]) => m.time), y: marks.map(([m]) => m.lane),
        customdata: marks.map(([, key]) => key), mode: "markers", hoverinfo: "none",
        name: what === "slow" ? "slow job" : "nothing ended (heartbeat)",
        marker: { symbol, size: 12, color: colour(hue), line: { color: colour("ink"), width: 1 } } });
    }
    return [traces, layout({ barmode: "overlay", xaxis: axis("seconds since the run began",
        { range: [0, 1.01 * data.seconds], zeroline: false }),
      yaxis: axis("", { tickvals: data.lanes.map((_, n) => n), ticktext: data.lanes,
        range: [data.lanes.length - 0.4, -0.6], fixedrange: true, zeroline: false, showgrid: false }),
      height: Math.max(220, (narrow() ? 230 : 130) + 34 * data.lanes.length) })];
  }

  const HUES = ["red", "green", "blue"], SIGNS = ["circle", "square", "diamond"];
  const channelColour = c => colour(data.channels.length === 3 ? HUES[c] : ["blue", "orange",
    "green", "purple", "red"][c % 5]);
  function corrections(what, title) {
    const tiles = data.tiles.filter(t => known(t[what][0]));
    const traces = data.channels.map((name, c) => ({
      x: tiles.map(t => t.index + (c - (data.channels.length - 1) / 2) * 0.18),
      y: tiles.map(t => t[what][c]), customdata: tiles.map(t => "t" + t.index), name,
      mode: "markers", hoverinfo: "none", showlegend: data.channels.length > 1,
      error_y: { type: "data", array: tiles.map(t => t[what + "_err"][c] ?? 0), thickness: 1.5,
        width: tiles.length > 60 ? 0 : 3, color: channelColour(c) },
      marker: { color: channelColour(c), symbol: SIGNS[c % 3], size: tiles.length > 60 ? 4 : 7 },
    }));
    return [traces, layout({ xaxis: axis("tile", { zeroline: false }), yaxis: axis(title) })];
  }

  function chi(values, title) {
    const side = 6, steps = 48, width = 2 * side / steps;
    const counts = new Array(steps).fill(0), middles = counts.map((_, k) => -side + (k + 0.5) * width);
    for (const x of values) {
      counts[Math.min(steps - 1, Math.max(0, Math.floor((x + side) / width)))]++;
    }
    const expected = middles.map(
      m => values.length * width * Math.exp(-m * m / 2) / Math.sqrt(2 * Math.PI));
    return [[
      { type: "bar", x: middles, y: counts, name: "pairs", hoverinfo: "x+y",
        marker: { color: colour("sky") } },
      { x: middles, y: expected, name: "if the errors were exact", mode: "lines",
        hoverinfo: "skip", line: { color: colour("orange"), width: 3, shape: "spline" } },
    ], layout({ bargap: 0.05, xaxis: axis(title + ", in standard errors", {
      range: [-6.3, 6.3], tickvals: [-6, -4, -2, 0, 2, 4, 6], ticktext: ["≤ −6", "−4", "−2", "0", "2", "4", "≥ 6"] }),
      yaxis: axis("pairs") })];
  }

  const charts = {
    sky, lanes, gain: () => corrections("gain", "gain"),
    offset: () => corrections("offset", "offset, ADU"),
    levels: () => chi(data.levelChi, "level difference left"),
    gains: () => chi(data.gainChi, "relative gain left"),
  };
  async function draw(place) {
    const [traces, how] = charts[place.id]();
    await Plotly.react(place, traces, { height: 300, ...how },
      { responsive: true, displayModeBar: false });
    if (!place.dataset.drawn) {
      place.on("plotly_hover", show);
      place.on("plotly_unhover", hide);
    }
    place.dataset.drawn = "yes";
  }
  const places = [...document.querySelectorAll(".chart")];
  // A chart is drawn when it is about to be seen: the page opens at once, however many pairs.
  const seen = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { seen.unobserve(target); draw(target); }
    }
  }, { rootMargin: "400px" });
  places.forEach(place => seen.observe(place));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    places.filter(place => place.dataset.drawn).forEach(draw));
  addEventListener("scroll", hide, { passive: true });
  addEventListener("beforeprint", () => places.filter(p => !p.dataset.drawn).forEach(draw));
})();
