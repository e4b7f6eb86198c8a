"use strict";
// Draws the charts of the report with Plotly from the data in the page. Tooltips are the page's
// own and set as text: no string from a file is ever parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const MANY_TILES = 60, MANY_PAIRS = 1000; // from here on, lines and markers are finer
  const NARROW = 600; // pixels
  const FAILED = "failed or timed out";
  const FAIR_CHI = 3, MAX_CHI = 5; // standard errors: limits of the colours in the map

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name);
  const isKnown = x => x !== null && x !== undefined;
  const number = (x, digits = 3) => {
    if (!isKnown(x)) return "unknown";
    const text = x.toPrecision(digits); // 1.3e+2 where 130 is meant
    return text.includes("e") && Math.abs(x) < 1e7 ? Number(text).toString() : text;
  };
  // The error has two significant digits, and the value as many decimals.
  function withError(x, error) {
    if (!isKnown(x) || !(error > 0)) return number(x, 4);
    const exponent = +error.toExponential(1).split("e")[1];
    if (Math.abs(exponent) > 7) {
      const power = x ? Math.max(exponent, +x.toExponential(1).split("e")[1]) : exponent;
      const decimals = Math.min(15, power - exponent + 1);
      const scaled = [x, error].map(y => (y / 10 ** power).toFixed(decimals));
      return `(${scaled.join(" ± ")})e${power}`;
    }
    const places = Math.max(0, 1 - exponent), unit = 10 ** Math.max(0, exponent - 1);
    return [x, error].map(y => (Math.round(y / unit) * unit).toFixed(places)).join(" ± ");
  }
  const isNarrow = () => innerWidth < NARROW;

  function tileText(tile) {
    const lines = [tile.name];
    if (tile.failed) lines.push("failed: " + tile.failed);
    data.channels.forEach((channel, c) => {
      const prefix = data.channels.length > 1 ? channel + ": " : "";
      if (isKnown(tile.gain[c])) {
        lines.push(`${prefix}gain ${withError(tile.gain[c], tile.gain_err[c])}, ` +
          `offset ${withError(tile.offset[c], tile.offset_err[c])} ${data.unit}`);
      }
    });
    lines.push(tile.pairs ? `${tile.pairs} measured pairs` : "no measured pair: isolated");
    if (tile.suspect) lines.push("its pairs contradict the others, or its WCS is wrong");
    return lines.join("\n");
  }

  function pairText(pair) {
    const lines = [`pair ${pair.index}: ${data.tiles[pair.i].name}`, data.tiles[pair.j].name,
      pair.outcome];
    if (pair.reason) lines.push(pair.reason);
    if (isKnown(pair.before)) {
      lines.push(`step before ${number(pair.before, 2)} × noise` +
        (isKnown(pair.after) ? `, after ${number(pair.after, 2)} × noise` : ""));
    }
    if (isKnown(pair.residual)) {
      lines.push(`residual: ${number(pair.residual, 2)} ${data.unit}` +
        (isKnown(pair.chi) ? `, ${number(pair.chi, 2)} standard errors` : ""));
    }
    lines.push(`took ${number(pair.seconds, 2)} s`);
    return lines.join("\n");
  }

  // A job is [lane, stage, index, start, end, failure, tile or pair].
  function jobText([, stage, index, start, end, failure, target]) {
    const title = data.stages[stage];
    const name = target === null ? `${title} ${index}`
      : stage === data.pairStage ? pairText(data.pairs[target])
      : title + ": " + data.tiles[target].name;
    const times = `from ${number(start, 4)} to ${number(end, 4)} s`;
    return `${name}\n${failure ? failure + "\n" : ""}${times}`;
  }

  // The key of a point is a letter for its kind and an index: t3 is the tile data.tiles[3].
  const TEXTS = {
    t: index => tileText(data.tiles[index]),
    p: index => pairText(data.pairs[index]),
    j: index => jobText(data.jobs[index]),
    m: index => data.marks[index].text,
  };

  function showTip(event) {
    const key = event.points[0].customdata;
    if (!key) return;
    tip.textContent = TEXTS[key[0]](+key.slice(1));
    tip.style.display = "block";
    const { clientX: x, clientY: y } = event.event;
    const left = Math.min(x + 14, innerWidth - tip.offsetWidth - 6);
    const top = y + 14 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }
  const hideTip = () => { tip.style.display = "none"; };

  function axis(title, options) {
    return { title: { text: title }, automargin: true, gridcolor: colour("line"),
      zerolinecolor: colour("line"), linecolor: colour("line"), ...options };
  }
  function layout(options) {
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: colour("ink"), family: "system-ui, DejaVu Sans, sans-serif", size: 13 },
      margin: { l: 10, r: 10, t: 10, b: 10 }, dragmode: isNarrow() ? false : "zoom",
      legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0, font: { size: 12 } },
      ...options,
    };
  }

  // A legend entry at full opacity, even where the lines themselves are pale.
  const legendEntry = (name, style) =>
    ({ x: [null], y: [null], name, legendgroup: name, hoverinfo: "skip", ...style });

  const centre = tile => tile.corners.length
    ? [0, 1].map(k => tile.corners.reduce((sum, corner) => sum + corner[k], 0) / 4) : null;

  function outlines(placed) {
    const kinds = [
      ["tiles", "ink", "solid", tile => tile.group === 0 && tile.pairs],
      ["tiles of other groups", "purple", "solid", tile => tile.group > 0 && tile.pairs],
      ["isolated tiles", "red", "dash", tile => !tile.pairs],
    ];
    const traces = [];
    for (const [name, hue, dash, belongs] of kinds) {
      const tiles = placed.filter(belongs);
      if (!tiles.length) continue;
      const x = [], y = [];
      for (const tile of tiles) {
        for (const [a, b] of [...tile.corners, tile.corners[0]]) { x.push(a); y.push(b); }
        x.push(null); y.push(null);
      }
      const many = tiles.length > MANY_TILES;
      traces.push({ x, y, mode: "lines", hoverinfo: "skip", fill: many ? "none" : "toself",
        fillcolor: colour(hue) + "14", opacity: many ? 0.35 : 1, showlegend: false,
        legendgroup: name, line: { color: colour(hue), width: hue === "ink" ? 1 : 2, dash } });
      traces.push(legendEntry(name, { mode: "lines",
        line: { color: colour(hue), width: 2, dash } }));
    }
    return traces;
  }

  // Kinds of pairs: label, colour, opacity, dash, and whether a pair belongs to it.
  const isMeasured = pair => pair.outcome === "measured";
  const isSolved = pair => isMeasured(pair) && isKnown(pair.chi);
  const PAIR_KINDS = [
    ["not measured", "grey", 0.8, "dot", pair => !isMeasured(pair)],
    ["measured, not solved", "sky", 0.6, "solid", pair => isMeasured(pair) && !isSolved(pair)],
    ["agree within 3 standard errors", "blue", 0.5, "solid",
      pair => isSolved(pair) && pair.chi <= FAIR_CHI],
    ["3 to 5 standard errors apart", "orange", 0.9, "solid",
      pair => isSolved(pair) && pair.chi > FAIR_CHI && pair.chi <= MAX_CHI],
    ["further apart", "red", 1, "solid", pair => isSolved(pair) && pair.chi > MAX_CHI],
  ];
  const WEIGHT_WIDTHS = [1.2, 2.5, 4.5];

  // Lines between the centres of two tiles; the points in between can be hovered over as well.
  function pairLines(pairs, centres) {
    const x = [], y = [], customdata = [];
    for (const [pair, index] of pairs) {
      const [from, to] = [centres[pair.i], centres[pair.j]];
      for (const f of [0, 0.35, 0.5, 0.65, 1]) {
        x.push(from[0] * (1 - f) + to[0] * f);
        y.push(from[1] * (1 - f) + to[1] * f);
        customdata.push("p" + index);
      }
      x.push(null); y.push(null); customdata.push("p" + index);
    }
    return { x, y, customdata };
  }

  function pairTraces(centres) {
    const scale = data.pairs.length > MANY_PAIRS ? 0.4 : 1;
    const placed = data.pairs.map((pair, index) => [pair, index])
      .filter(([pair]) => centres[pair.i] && centres[pair.j]);
    const traces = [];
    for (const [label, hue, opacity, dash, belongs] of PAIR_KINDS) {
      const name = "pairs: " + label;
      const pairs = placed.filter(([pair]) => belongs(pair));
      WEIGHT_WIDTHS.forEach((width, weight) => {
        const lines = pairs.filter(([pair]) => pair.weight === weight);
        if (!lines.length) return;
        traces.push({ ...pairLines(lines, centres), legendgroup: name, opacity,
          showlegend: false, mode: "lines", hoverinfo: "none",
          line: { color: colour(hue), width: scale * width, dash } });
      });
      if (pairs.length) {
        traces.push(legendEntry(name, { mode: "lines",
          line: { color: colour(hue), width: 4, dash } }));
      }
    }
    return traces;
  }

  function tileMarkers(placed, centres) {
    const size = placed.length > MANY_TILES ? 5 : 8;
    const traces = [{
      x: placed.map(tile => centres[tile.index][0]), y: placed.map(tile => centres[tile.index][1]),
      customdata: placed.map(tile => "t" + tile.index), mode: "markers", hoverinfo: "none",
      showlegend: false,
      marker: { size: placed.map(tile => tile.suspect ? 13 : size),
        symbol: placed.map(tile => tile.suspect ? "x" : "circle"),
        color: placed.map(tile => colour(tile.suspect ? "red" : "ink")) },
    }];
    if (placed.some(tile => tile.suspect)) {
      traces.push(legendEntry("tiles that contradict the others",
        { mode: "markers", marker: { symbol: "x", size: 11, color: colour("red") } }));
    }
    return traces;
  }

  function sky() {
    const placed = data.tiles.filter(tile => tile.corners.length);
    const centres = data.tiles.map(centre);
    const corners = placed.flatMap(tile => tile.corners);
    const [extentX, extentY] = [0, 1].map(k =>
      corners.reduce((high, corner) => Math.max(high, corner[k]), -Infinity) -
      corners.reduce((low, corner) => Math.min(low, corner[k]), Infinity));
    const width = document.getElementById("sky").clientWidth - 80;
    const legend = isNarrow() ? 240 : 120;
    const traces = [...outlines(placed), ...pairTraces(centres), ...tileMarkers(placed, centres)];
    const { source, left: x, right, bottom, top: y } = data.survey ?? {};
    const images = data.survey ? [{ source, x, y, sizex: right - x, sizey: y - bottom,
      xref: "x", yref: "y", sizing: "stretch", layer: "below", opacity: 0.7 }] : [];
    return [traces, layout({
      images, height: Math.min(legend + width * extentY / extentX, 640) || 400,
      xaxis: axis("← east, degrees", { constrain: "domain" }),
      yaxis: axis("degrees, north ↑", { scaleanchor: "x", constrain: "domain" }) })];
  }

  function jobBars() {
    const groups = new Map();
    data.jobs.forEach((job, index) => {
      const [, stage, , , , failure] = job;
      const name = failure ? FAILED : data.stages[stage];
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push([job, "j" + index]);
    });
    const hues = ["sky", "green", "blue", "purple", "orange"];
    const shortest = data.seconds / 2000; // so that a job shorter than a pixel is visible
    const failedLast = ([a], [b]) => (a === FAILED) - (b === FAILED); // the last is on top
    return [...groups].sort(failedLast).map(([name, jobs]) => {
      const hue = name === FAILED ? "red" : hues[data.stages.indexOf(name) % hues.length];
      return { type: "bar", orientation: "h", name, hoverinfo: "none",
        y: jobs.map(([[lane]]) => lane), base: jobs.map(([[, , , start]]) => start),
        x: jobs.map(([[, , , start, end]]) => Math.max(end - start, shortest)), width: 0.8,
        customdata: jobs.map(([, key]) => key),
        marker: { color: colour(hue), opacity: 1, line: { width: 0 } } };
    });
  }

  function alertMarkers() {
    const kinds = [["heartbeat", "no job finished (heartbeat)", "diamond", "orange"],
      ["slow", "slow job", "triangle-down", "red"]];
    const traces = [];
    for (const [kind, name, symbol, hue] of kinds) {
      const alerts = data.marks.map((alert, index) => [alert, "m" + index])
        .filter(([alert]) => alert.kind === kind);
      if (!alerts.length) continue;
      traces.push({ x: alerts.map(([alert]) => alert.time), y: alerts.map(([alert]) => alert.lane),
        customdata: alerts.map(([, key]) => key), mode: "markers", hoverinfo: "none", name,
        marker: { symbol, size: 12, color: colour(hue),
          line: { color: colour("ink"), width: 1 } } });
    }
    return traces;
  }

  function lanes() {
    const count = data.lanes.length;
    return [[...jobBars(), ...alertMarkers()], layout({ barmode: "overlay",
      xaxis: axis("seconds since the start of the run",
        { range: [0, 1.01 * data.seconds], zeroline: false }),
      yaxis: axis("", { tickvals: data.lanes.map((_, lane) => lane), ticktext: data.lanes,
        range: [count - 0.4, -0.6], fixedrange: true, zeroline: false, showgrid: false }),
      height: Math.max(220, (isNarrow() ? 230 : 130) + 34 * count) })];
  }

  const RGB = ["red", "green", "blue"], HUES = ["blue", "orange", "green", "purple", "red"];
  const SYMBOLS = ["circle", "square", "diamond"];
  const channelColour = c => colour(data.channels.length === 3 ? RGB[c] : HUES[c % HUES.length]);
  function corrections(field, title) {
    const tiles = data.tiles.filter(tile => isKnown(tile[field][0]));
    const many = tiles.length > MANY_TILES, middle = (data.channels.length - 1) / 2;
    const traces = data.channels.map((name, c) => ({
      x: tiles.map(tile => tile.index + (c - middle) * 0.18), y: tiles.map(tile => tile[field][c]),
      customdata: tiles.map(tile => "t" + tile.index), name,
      mode: "markers", hoverinfo: "none", showlegend: data.channels.length > 1,
      error_y: { type: "data", array: tiles.map(tile => tile[field + "_err"][c] ?? 0),
        thickness: 1.5, width: many ? 0 : 3, color: channelColour(c) },
      marker: { color: channelColour(c), symbol: SYMBOLS[c % SYMBOLS.length], size: many ? 4 : 7 },
    }));
    return [traces, layout({ xaxis: axis("tile", { zeroline: false }), yaxis: axis(title) })];
  }

  // Histogram of residuals in standard errors, and the normal distribution.
  function histogram(chis, title) {
    const limit = 6, bins = 48, width = 2 * limit / bins;
    const counts = new Array(bins).fill(0);
    for (const chi of chis) {
      counts[Math.min(bins - 1, Math.max(0, Math.floor((chi + limit) / width)))]++;
    }
    const middles = counts.map((_, bin) => -limit + (bin + 0.5) * width);
    const expected = middles.map(
      chi => chis.length * width * Math.exp(-chi * chi / 2) / Math.sqrt(2 * Math.PI));
    return [[
      { type: "bar", x: middles, y: counts, name: "pairs", hoverinfo: "x+y",
        marker: { color: colour("sky") } },
      { x: middles, y: expected, name: "if the errors were exact", mode: "lines",
        hoverinfo: "skip", line: { color: colour("orange"), width: 3, shape: "spline" } },
    ], layout({ bargap: 0.05, yaxis: axis("pairs"),
      xaxis: axis(title + (isNarrow() ? ",<br>" : ", ") + "in standard errors", { range: [-6.3, 6.3],
        tickvals: [-6, -4, -2, 0, 2, 4, 6],
        ticktext: ["≤ −6", "−4", "−2", "0", "2", "4", "≥ 6"] }) })];
  }

  // Plotly is in the page as gzip in base64.
  const { nonce } = document.currentScript;
  async function unpackPlotly() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent),
      letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  const unpacked = unpackPlotly();

  const charts = {
    sky, lanes, gain: () => corrections("gain", "gain"),
    offset: () => corrections("offset", data.unit ? "offset, " + data.unit : "offset"),
    levels: () => histogram(data.levelChi, "residual level difference"),
    gains: () => histogram(data.gainChi, "residual relative gain"),
  };
  async function draw(element) {
    try {
      await unpacked;
    } catch (error) {
      element.textContent = `This browser cannot draw the charts (${error.message}).`;
      return;
    }
    const [traces, options] = charts[element.id]();
    element.style.height = (options.height ?? 300) + "px";  // or the text below moves late
    await Plotly.react(element, traces, { height: 300, ...options },
      { responsive: true, displayModeBar: false });
    if (!element.dataset.drawn) {
      element.on("plotly_hover", showTip);
      element.on("plotly_unhover", hideTip);
    }
    element.dataset.drawn = "yes";
  }
  const elements = [...document.querySelectorAll(".chart")];
  // Charts are drawn shortly before they scroll into view, so that large pages open at once.
  const observer = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) { observer.unobserve(target); draw(target); }
    }
  }, { rootMargin: "400px" });
  elements.forEach(element => observer.observe(element));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    elements.filter(element => element.dataset.drawn).forEach(draw));
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("beforeprint", () =>
    elements.filter(element => !element.dataset.drawn).forEach(draw));
})();
