"use strict";
// The report and the dashboard share this page: a report contains its data, the dashboard requests it from its server.

// Based on Okabe and Ito, with light colors darkened for thin lines on white.
const PALETTE = ["#0072b2", "#d55e00", "#00855f", "#b75a90", "#8a6d00", "#2f8fc9", "#b97a00", "#6f5fc6"];
const DASHES = ["solid", "dash", "dot"];
const TABLE_ROWS = 2000; // per chart, at most
const REFRESH_MS = 5000;
const AXES = {
  frames: { label: "frames", title: "environment frames", of: (series) => series.frames },
  steps: { label: "steps", title: "agent steps", of: (series) => series.agent_steps },
  hours: { label: "hours", title: "training time in hours", of: (series) => series.seconds.map((s) => s / 3600) },
};
const SEEDS = { each: "each", mean: "mean", iqm: "IQM" };
const CHARTS = [
  { key: "trained.mean", title: "Training return", note: "", measure: "training", first: true },
  { key: "evaluated.mean", title: "Evaluation return", note: "mean raw return of separate games", measure: "evaluation", points: true },
  { key: "measured.q_mean", title: "Q-values", note: "mean over the updates since the last row of metrics.csv" },
  { key: "evaluated.held_out_q", title: "Q-values of held-out states", note: "mean of max Q, as in Figure 2 of Mnih et al. 2015", points: true },
  { key: "measured.loss", title: "Loss", note: "mean over the updates since the last row of metrics.csv" },
  { key: "measured.epsilon", title: "Epsilon", note: "probability of a random action" },
  { key: "measured.learning_rate", title: "Learning rate", note: "of the last update" },
  { key: "measured.frames_per_second", title: "Speed", note: "environment frames per second" },
  { key: "measured.grad_norm", title: "Gradient norm", note: "of the last update" },
];

let data = JSON.parse(document.getElementById("data").textContent);
const choice = { axis: "frames", seeds: "each", theme: "auto", runs: null };
const numberFormat = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

// --- small helpers ---------------------------------------------------------------------------------------------------

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && !key.startsWith("aria") && key !== "style") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const exact = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : numberFormat.format(value));
const show = (value) => (value === null || value === undefined ? "–" : exact(value));
const percent = (share) => (share === null || share === undefined ? "" : `${Math.round(100 * share)}%`);
const short = (name) => name.split("/").pop();

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${(minutes / 1440).toFixed(1)} days`;
}

function compact(number) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(number);
}

function table(caption, columns, rows, leftColumns = 1) {
  const side = (i) => (i < leftColumns ? "left" : "");
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...columns.map((name, i) => el("th", { scope: "col", className: side(i) }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, i) =>
      i === 0 ? el("th", { scope: "row", className: "left" }, cell) : el("td", { className: side(i) }, cell))))));
}

const scrolled = (label, child) => el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": label }, child);

// --- selection ------------------------------------------------------------------------------------------------------

function radios(id, options, changed) {
  const box = document.getElementById(id);
  box.replaceChildren(...Object.entries(options).map(([value, label]) => el("label", {},
    el("input", { type: "radio", name: id, value, checked: choice[id] === value, onchange: () => { choice[id] = value; changed(); } }),
    el("span", {}, label))));
}

function theme() {
  const dark = choice.theme === "dark" || (choice.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function chosen() {
  return data.runs.filter((run) => choice.runs.has(run.name));
}

const entries = () => chosen().map((run) => ({ ...run, ...(data.entries[run.name] || {}) })).filter((run) => run.trained);

// A run keeps its color when others are added or removed.
const colors = new Map();
function color(name) {
  if (!colors.has(name)) colors.set(name, colors.size);
  return PALETTE[colors.get(name) % PALETTE.length];
}
const dash = (name) => DASHES[Math.floor(colors.get(name) / PALETTE.length) % DASHES.length];

// --- the list of runs ------------------------------------------------------------------------------------------------

// Columns of the list: title, cell, alignment. The most important come first, for small screens.
const COLUMNS = [
  ["state", (run) => el("span", { className: `state ${run.state}`, title: run.detail }, run.state), "left"],
  ["score", (run) => show(run.score)],
  ["best", (run) => show(run.best)],
  ["of a human", (run) => percent(run.human_normalised)],
  ["pace", (run) => run.pace, "left"],
  ["agent steps", (run) => el("span", {}, `${compact(run.agent_steps)} `, run.state === "finished" ? null : progress(run))],
  ["time left", (run) => duration(run.seconds_left)],
  ["frames/s", (run) => (run.frames_per_second === null ? "" : compact(run.frames_per_second))],
  ["training time", (run) => duration(3600 * run.hours)],
  ["game", (run) => run.game, "left"],
  ["preset", (run) => run.preset, "left"],
  ["seed", (run) => String(run.seed)],
];

function progress(run) {
  const done = run.agent_steps / run.total_steps;
  return el("progress", { max: 1, value: done, title: percent(done), "aria-label": `${run.name}: progress` });
}

function list() {
  const focused = document.activeElement && document.activeElement.id;
  const body = data.runs.map((run) => {
    const box = el("td", { className: "choose" }, el("input", {
      type: "checkbox", id: `show ${run.name}`, checked: choice.runs.has(run.name), "aria-label": `show ${run.name}`,
      onchange: (event) => { choice.runs[event.target.checked ? "add" : "delete"](run.name); remember(); changed(); },
    }));
    const swatch = choice.runs.has(run.name) && !run.error ? el("span", { className: "swatch", style: `background:${color(lineName(run))}` }) : null;
    const name = el("th", { scope: "row", className: "left" }, swatch, run.name);
    if (run.error) return el("tr", {}, box, name, el("td", { colSpan: COLUMNS.length, className: "left failed" }, run.error));
    return el("tr", {}, box, name, ...COLUMNS.map(([, cell, side]) => el("td", { className: side || "" }, cell(run))));
  });
  document.getElementById("list").replaceChildren(
    el("caption", {}, `${data.runs.length} ${data.runs.length === 1 ? "run" : "runs"}; checked runs are shown below`),
    el("thead", {}, el("tr", {}, 
      el("th", { scope: "col", className: "choose" }, "shown"), el("th", { scope: "col", className: "left" }, "run"),
      ...COLUMNS.map(([title, , side]) => el("th", { scope: "col", className: side || "" }, title)))),
    el("tbody", {}, ...body));
  if (focused && focused.startsWith("show ")) document.getElementById(focused)?.focus();
}

// --- curves ----------------------------------------------------------------------------------------------------------

const band = (group) => data.bands.find((one) => one.group === group);
const isTogether = (run) => choice.seeds !== "each" && Boolean(band(run.group));
const lineName = (run) => (isTogether(run) ? run.group : run.name);

function series(run, chart) {
  const [part, column] = chart.key.split(".");
  return { x: AXES[choice.axis].of(run[part]), y: run[part][column] };
}

const shade = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");

function bandTraces(x, low, high, fill, name) {
  const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", edge: true, type: "scatter" };
  return [{ ...edge, y: low, name: `${name}, low` }, { ...edge, y: high, fill: "tonexty", fillcolor: fill, name: `${name}, high` }];
}

// The published curves of the runs, up to the longest run; they have no time axis.
function publishedOnes(runs) {
  const longest = new Map();
  for (const run of choice.axis === "hours" ? [] : runs) {
    const one = run.published;
    if (one && !(longest.get(one.title)?.[0].frames.length >= one.frames.length)) longest.set(one.title, [one, run]);
  }
  return [...longest.values()];
}

function traces(chart, runs) {
  const made = [];
  publishedOnes(runs).filter(([one]) => one.measure === chart.measure).forEach(([one, run], i) => {
    const x = one.frames.map((frames) => frames / (choice.axis === "steps" ? run.frame_skip : 1));
    made.push(...bandTraces(x, one.low, one.high, "#80808026", `${one.title}, tolerance`));
    made.push({ x, y: one.mean, name: one.title, mode: "lines", type: "scatter", line: { color: "#808080", dash: i ? "dot" : "dash", width: 2 } });
  });
  const seen = new Set();
  for (const run of runs) {
    const name = lineName(run);
    if (seen.has(name)) continue;
    seen.add(name);
    const stroke = color(name);
    const common = isTogether(run) && band(run.group).curves[`${chart.key}.${choice.axis === "hours" ? "seconds" : "frames"}`];
    if (common) {
      const unit = { frames: 1, steps: run.frame_skip, hours: 3600 }[choice.axis];
      const x = common.x.map((value) => value / unit);
      const { middle, low, high } = common[choice.seeds];
      made.push(...bandTraces(x, low, high, shade(stroke, 0.22), name));
      made.push({ x, y: middle, name: `${name} (${common.seeds} seeds)`, mode: "lines", type: "scatter", line: { color: stroke, width: 2.5, dash: dash(name) } });
    } else { // a single run, or the group's runs do not overlap yet
      const { x, y } = series(run, chart);
      seen.delete(name);
      if (!y.some((value) => value !== null)) continue;
      const error = chart.key === "evaluated.mean" ? { type: "data", array: run.evaluated.sd, thickness: 1, width: 2, color: shade(stroke, 0.5) } : undefined;
      made.push({ x, y, name: short(name), mode: chart.points ? "lines+markers" : "lines", type: "scatter", error_y: error, line: { color: stroke, width: 2, dash: dash(name) }, marker: { size: 6 }, connectgaps: false });
    }
  }
  return made;
}

function layout(made) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const axis = { gridcolor: style.getPropertyValue("--line").trim(), zerolinecolor: style.getPropertyValue("--line").trim(), automargin: true };
  return {
    margin: { l: 46, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily }, hovermode: "x unified",
    hoverlabel: { bgcolor: style.getPropertyValue("--back").trim(), font: { color: ink } },
    xaxis: { ...axis, title: { text: AXES[choice.axis].title }, rangemode: "tozero" }, yaxis: axis, uirevision: choice.axis,
    showlegend: false,
  };
}

function summary(made) {
  const parts = made.filter((trace) => !trace.edge).map((trace) => {
    const known = trace.y.filter((value) => value !== null);
    return `${trace.name}: ${known.length ? `last ${show(known[known.length - 1])}, from ${show(Math.min(...known))} to ${show(Math.max(...known))}` : "no values yet"}`;
  });
  return parts.join("; ") || "no values yet";
}

function numbersTable(made, title) {
  const lines = made.filter((trace) => !trace.edge);
  const every = Math.max(1, Math.ceil(lines.reduce((sum, trace) => sum + trace.x.length, 0) / TABLE_ROWS));
  const rows = lines.flatMap((trace) => trace.x.map((x, i) => [trace.name, show(x), show(trace.y[i])]).filter((_, i) => trace.y[i] !== null && i % every === 0));
  return scrolled(`${title}: numbers`, table(every > 1 ? `${title}, every ${every}th value` : title, ["curve", AXES[choice.axis].title, "value"], rows));
}

const visible = new IntersectionObserver((seen) => seen.forEach((one) => { if (one.isIntersecting) paint(one.target); }), { rootMargin: "200px" });

function paint(plot) {
  if (!plot.dirty || !window.Plotly) return;
  plot.dirty = false;
  Plotly.react(plot, plot.made, layout(plot.made), { displayModeBar: false, responsive: true });
}

function figure(chart) {
  const note = el("span", { className: "note" }, chart.note);
  const caption = el("figcaption", {}, chart.title, note);
  const plot = el("div", { className: "plot", role: "img" });
  const details = el("details", {}, el("summary", {}, "show the numbers"));
  details.addEventListener("toggle", () => { fill(details, plot, chart); });
  const box = el("figure", { className: chart.first ? "first" : "", "data-chart": chart.key }, caption, plot, details);
  box.plot = plot;
  box.update = (runs) => {
    if (chart.first) note.textContent = firstNote(runs);
    plot.made = traces(chart, runs);
    plot.dirty = true;
    const own = plot.made.filter((trace) => !trace.edge);
    box.hidden = own.length === 0;
    plot.setAttribute("aria-label", `${chart.title} over ${AXES[choice.axis].title}. ${summary(plot.made)}`);
    fill(details, plot, chart);
    visible.unobserve(plot);
    visible.observe(plot);
  };
  return box;
}

function firstNote(runs) {
  const widths = [...new Set(runs.map((run) => run.every_frames))];
  return `mean raw return of the games that ended in each ${widths.length === 1 ? `${compact(widths[0])} frames` : "interval"}`;
}

// One legend for all charts of a game.
function legend(runs) {
  const named = new Map();
  for (const run of runs) named.set(lineName(run), isTogether(run) ? `${run.group}, ${band(run.group).runs.length} seeds` : short(run.name));
  const key = (stroke, style, text) => el("li", {}, el("span", { className: "key", style: `border-top: 3px ${style} ${stroke}` }), text);
  const styles = { solid: "solid", dash: "dashed", dot: "dotted" };
  const made = [...named].map(([name, text]) => key(color(name), styles[dash(name)], text));
  publishedOnes(runs).forEach(([one], i) => made.push(key("#808080", i ? "dotted" : "dashed", `${one.title}, published; shaded: tolerance`)));
  return el("ul", { className: "legend", "aria-label": "legend" }, ...made);
}

function fill(details, plot, chart) {
  details.querySelectorAll(".wide").forEach((old) => old.remove());
  if (details.open) details.append(numbersTable(plot.made, chart.title));
}

// --- a game ----------------------------------------------------------------------------------------------------------

function scoresTable(game, runs) {
  const rows = [];
  for (const run of runs) {
    for (const [row, what] of picks(run.evaluations)) {
      rows.push([`${short(run.name)}, ${what}`, compact(Number(row.agent_steps)), row.protocol, row.episodes, show(row.mean), show(row.sd), show(row.median), show(row.min), show(row.max), percent(row.human_normalised)]);
    }
  }
  for (const one of data.scores[game] || []) {
    rows.push([one.title, one.frames ? compact(one.frames / 4) : "", one.protocol, "", show(one.mean), "", "", "", "", percent(one.human_normalised)]);
  }
  if (!rows.length) return null;
  const columns = ["network", "agent steps", "protocol", "games", "mean", "sd", "median", "min", "max", "of a human"];
  const made = table(`${game}: evaluations and published scores`, columns, rows, 1);
  made.querySelectorAll("tbody tr").forEach((row) => row.children[2].classList.add("wrap", "left"));
  return scrolled(`${game}: evaluations`, made);
}

function picks(rows) {
  const current = rows.filter((row) => row.network !== "best");
  const found = [];
  if (current.length) found.push([current[current.length - 1], "last network"]);
  const best = current.reduce((one, other) => (one === null || other.mean > one.mean ? other : one), null);
  if (best && best !== current[current.length - 1]) found.push([best, "best when evaluated"]);
  const again = rows.filter((row) => row.network === "best");
  if (again.length) found.push([again[again.length - 1], "best, evaluated again with fresh seeds"]);
  return found;
}

function evaluationsTable(run) {
  const rows = run.evaluations.map((row) => [compact(Number(row.agent_steps)), row.network, row.episodes, show(row.mean), show(row.sd), show(row.median), show(row.min), show(row.max), percent(row.human_normalised)]);
  return scrolled(`${run.name}: all evaluations`, table("all evaluations", ["agent steps", "network", "games", "mean", "sd", "median", "min", "max", "of a human"], rows));
}

// Create a video player; in a report, decode the embedded video.
function film(run, one) {
  const player = el("video", { controls: true, preload: one.url ? "metadata" : "none", playsInline: true, "aria-label": `${run.name}: ${one.label}` });
  if (one.url) player.src = one.url;
  else {
    const bytes = Uint8Array.from(atob(document.getElementById(one.id).textContent), (c) => c.charCodeAt(0));
    player.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    player.preload = "metadata";
  }
  return el("figure", {}, player, el("figcaption", {}, short(run.name), el("span", { className: "note" }, one.label)));
}

function about(run) {
  const facts = [["steps", `${run.agent_steps.toLocaleString("en")} of ${run.total_steps.toLocaleString("en")} agent steps (${compact(run.frames)} frames), ${run.updates.toLocaleString("en")} updates, ${duration(3600 * run.hours)}`]];
  facts.push(["state", run.state + (run.detail && `: ${run.detail}`)]);
  for (const key of ["machine", "versions"]) {
    const told = run.process[key];
    if (told) facts.push([key, Object.entries(told).map(([name, value]) => `${name} ${value}`).join(", ")]);
  }
  if (run.published) facts.push(["compared with", `${run.published.title}: ${run.published.protocol}; ${run.published.seeds} seeds; ${run.published.source}. Tolerance: mean ± max(3 sd, 20%)`]);
  const departures = run.departures.length
    ? scrolled(`${run.name}: settings`, table(`Overrides of preset "${run.preset}"`, ["setting", "preset", "this run"], run.departures))
    : el("p", {}, `No overrides of preset "${run.preset}".`);
  return el("details", { open: true }, el("summary", {}, run.name),
    el("dl", {}, ...facts.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)])), departures,
    run.evaluations.length ? evaluationsTable(run) : null);
}

const sections = new Map();

function section(game) {
  if (sections.has(game)) return sections.get(game);
  const figures = CHARTS.map(figure);
  const lines = el("div"), scores = el("div"), films = el("div"), runs = el("div", { className: "runs" });
  const filmed = el("div", {}, el("h3", {}, "Videos"), films);
  films.className = "films";
  const box = el("section", { "aria-label": game }, el("h2", {}, game), lines, el("div", { className: "charts" }, ...figures),
    el("h3", {}, "Scores"), scores, filmed, el("h3", {}, "Run details"), runs);
  box.update = (shown) => {
    replace(lines, JSON.stringify([choice.seeds, choice.axis === "hours", shown.map((run) => [run.name, run.published?.title])]), () => [legend(shown)]);
    figures.forEach((one) => one.update(shown));
    replace(scores, JSON.stringify(shown.map((run) => [run.name, run.evaluations])), () => [scoresTable(game, shown) || el("p", { className: "note" }, "no evaluation yet")]);
    const all = shown.flatMap((run) => (data.videos[run.name] || []).map((one) => [run, one]));
    filmed.hidden = all.length === 0;
    replace(films, JSON.stringify(all.map(([run, one]) => [run.name, one])), () => all.map(([run, one]) => film(run, one)));
    replace(runs, JSON.stringify(shown), () => shown.map(about));
  };
  sections.set(game, box);
  return box;
}

// Replace only what has changed, to keep focus, scroll position and a playing video.
function replace(box, key, make) {
  if (box.key === key) return;
  box.key = key;
  box.replaceChildren(...make());
}

function changed() {
  list();
  const runs = entries();
  const games = [...new Set(runs.map((run) => run.game))];
  const boxes = games.map(section);
  const all = document.getElementById("games");
  if ([...all.children].some((child, i) => child !== boxes[i]) || all.children.length !== boxes.length) all.replaceChildren(...boxes);
  games.forEach((game, i) => boxes[i].update(runs.filter((run) => run.game === game)));
  if (data.live && chosen().some((run) => !data.entries[run.name])) refresh();
}

// --- live ------------------------------------------------------------------------------------------------------------

function remember() {
  if (data.live) history.replaceState(null, "", `#${new URLSearchParams([...choice.runs].map((name) => ["run", name]))}`);
}

function first() {
  const asked = new URLSearchParams(location.hash.slice(1)).getAll("run");
  const names = new Set(data.runs.map((run) => run.name));
  if (data.live && asked.some((name) => names.has(name))) return new Set(asked.filter((name) => names.has(name)));
  if (!data.live) return names;
  const good = data.runs.filter((run) => !run.error);
  const running = good.filter((run) => run.state === "running");
  return new Set((running.length ? running : good).slice(0, 4).map((run) => run.name));
}

// Running first, then by the time of the last update; in minutes, so that the order is stable.
function byActivity(a, b) {
  const key = (run) => (run.error ? 1e12 : run.state === "running" ? -1 : Math.round(run.seconds_since / 60));
  return key(a) - key(b) || a.name.localeCompare(b.name, "en", { numeric: true });
}

// Read by screen readers, so update it only if it changes.
function announce(text) {
  const status = document.getElementById("status");
  if (status.textContent !== text) status.textContent = text;
}

let asking = false, tag = "";
async function refresh() {
  if (asking) return;
  asking = true;
  let answered = false;
  try {
    const query = new URLSearchParams([...(choice.runs || [])].map((name) => ["run", name]));
    const answer = await fetch(`data.json?${query}`, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status !== 200 && answer.status !== 304) throw new Error(String(answer.status));
    answered = true;
    if (answer.status === 200) {
      tag = answer.headers.get("ETag") || "";
      data = { ...(await answer.json()), live: true };
      data.runs.sort(byActivity);
      if (choice.runs === null) { choice.runs = first(); tag = ""; }
      changed();
    }
    const running = data.runs.filter((run) => run.state === "running").length;
    announce(`live: ${running} of ${data.runs.length} ${data.runs.length === 1 ? "run" : "runs"} training`);
    document.getElementById("made").textContent = `last change ${data.made}`;
  } catch (error) {
    announce("the dashboard's server does not respond; showing its last data");
  } finally {
    asking = false;
  }
  if (answered && choice.runs && chosen().some((run) => !run.error && !data.entries[run.name])) await refresh();
}

async function plotly() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(el("script", { textContent: text }));
  packed.remove();
}

async function start() {
  theme();
  const again = () => { theme(); changed(); };
  radios("axis", Object.fromEntries(Object.entries(AXES).map(([key, axis]) => [key, axis.label])), changed);
  radios("seeds", SEEDS, changed);
  radios("theme", { auto: "auto", light: "light", dark: "dark" }, again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  try {
    await plotly();
  } catch (error) {
    announce("this browser cannot draw the curves; see the numbers in the tables");
  }
  if (data.live) {
    await refresh();
    setInterval(refresh, REFRESH_MS);
  } else {
    choice.runs = first();
    document.getElementById("made").textContent = `created ${data.made}`;
    changed();
  }
  document.documentElement.dataset.ready = "true";
}

start();
