// The page: reads what is asked for, draws it, and keeps it up to date.

import { guardButtons, revertButton } from "./actions.js";
import { LOOK, Refused, ask, keepToken, listen } from "./api.js";
import { PANELS, alarms, course, figure, points, scatter } from "./charts.js";
import { openDecision } from "./decision.js";
import { element, table, when } from "./elements.js";

const MOST_POINTS = 400;
const charts = new Map();
const filters = document.getElementById("filters");
const style = getComputedStyle(document.documentElement);
let extent = null;
let shown = null;
let asked = 0;
let events = [];
let shownGuard; // as the actions show it; nothing yet
let shownEdits;

// ---- What is asked for ----

function span() {
  const seconds = Number(filters.span.value);
  if (!seconds && extent?.start) return [extent.start, extent.end];
  // All who look at the same window ask for the same one, to the second, so that it is read once for all.
  const step = Math.max(10, Math.ceil((seconds || 3600) / MOST_POINTS));
  const last = filters.live.checked || !extent?.end ? Date.now() / 1000 : extent.end;
  const end = Math.ceil(last / step) * step;
  return [end - (seconds || 3600), end];
}

async function refresh() {
  const mine = ++asked;
  const first = extent === null;
  extent = await ask("about");
  // A stored journal that ended long ago is shown whole.
  if (first && extent.end && extent.end < Date.now() / 1000 - 86400) filters.span.value = "0";
  choices(filters.policy, extent.policies);
  choices(filters.profile, extent.profiles);
  const [from, to] = span();
  const query = { from, to, policy: filters.policy.value, profile: filters.profile.value };
  const [series, happened, decisions, edits, state] = await Promise.all([
    ask("series", query), ask("events", { from }), ask("decisions", { limit: 50 }), ask("edits"), extent.live ? ask("state") : null,
  ]);
  if (mine !== asked) return; // something else has been asked for since
  const focused = document.activeElement.id;
  shown = series;
  events = happened;
  draw();
  listDecisions(decisions);
  listEdits(edits, state);
  if (state) health(state);
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
  document.getElementById("status").textContent = `as of ${when(Date.now() / 1000)}`;
}

function choices(select, names) {
  const missing = names.filter((name) => ![...select.options].some((option) => option.value === name));
  for (const name of missing) select.append(element("option", { value: name, text: name }));
}

// ---- Panels ----

function build() {
  const panels = document.getElementById("panels");
  for (const panel of PANELS) {
    const title = `${panel.id}-title`;
    const chart = element("div", { class: "chart", role: "img", id: `${panel.id}-chart` });
    const details = element("details", {}, element("summary", { text: "Figures" }), element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `${panel.title}: figures` }));
    details.addEventListener("toggle", () => details.open && tabulate(panel));
    const png = element("button", { type: "button", class: "link", text: "PNG", "aria-label": `${panel.title} as PNG` });
    png.addEventListener("click", () => save(panel, "png"));
    const svg = element("button", { type: "button", class: "link", text: "SVG", "aria-label": `${panel.title} as SVG` });
    svg.addEventListener("click", () => save(panel, "svg"));
    panels.append(element("section", { "aria-labelledby": title, id: panel.id },
      element("h2", { id: title, text: panel.title }), element("p", { text: panel.told }), chart,
      element("div", { class: "tools" }, details, png, svg)));
    charts.set(panel.id, echarts.init(chart));
  }
  new ResizeObserver(() => charts.forEach((chart) => chart.resize())).observe(panels);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

function option(panel) {
  if (panel.points) return scatter(points(shown), style);
  if (panel.alarms) return alarms(shown, events, style);
  return course(panel, panel.lines(shown), shown, events, style);
}

function draw() {
  if (!shown) return;
  for (const panel of PANELS) {
    charts.get(panel.id).setOption(option(panel), { notMerge: true });
    document.getElementById(`${panel.id}-chart`).setAttribute("aria-label", `${panel.title}: ${said(panel).join(", ") || "nothing yet"}`);
    if (document.querySelector(`#${panel.id} details`).open) tabulate(panel);
  }
  document.getElementById("verdict").textContent = shown.summary.join(" ");
  document.getElementById("events").replaceChildren(events.length ? listed(events) : element("p", { text: "None." }));
}

function listed(happened) {
  return table(["when", "what", "why"], happened.toReversed().map((event) => [when(event.at), event.name, event.cause]));
}

// What a chart shows, for who does not see it: the last value of every line, or every point.
function said(panel) {
  if (panel.points) return points(shown).points.map((p) => `${p.name} ${figure(p.accuracy, true)}`);
  if (panel.alarms) return [`${events.length} in this window`];
  return panel.lines(shown).map((line) => {
    const last = line.values.findLast((value) => value !== null);
    return `${line.name} ${figure(last, panel.percent)}`;
  });
}

function tabulate(panel) {
  const place = document.querySelector(`#${panel.id} details > div`);
  if (panel.points) {
    const found = points(shown);
    return place.replaceChildren(table(["who", "accuracy", `${found.price}, ${found.unit}`],
      found.points.map((p) => [p.name, figure(p.accuracy, true), figure(p.price)])));
  }
  if (panel.alarms) return place.replaceChildren(listed(events));
  const lines = panel.lines(shown);
  const rows = shown.at.map((at, k) => [when(at), ...lines.map((line) => figure(line.values[k], panel.percent))]);
  place.replaceChildren(table(["when", ...lines.map((line) => line.name)], rows.reverse()));
}

function save(panel, kind) {
  const drawn = kind === "png" ? charts.get(panel.id) : echarts.init(null, null, { renderer: "svg", ssr: true, width: 900, height: 420 });
  let url;
  if (kind === "png") url = drawn.getDataURL({ type: "png", pixelRatio: 2, backgroundColor: style.getPropertyValue("--card").trim() });
  else {
    drawn.setOption(option(panel));
    url = URL.createObjectURL(new Blob([drawn.renderToSVGString()], { type: "image/svg+xml" }));
    drawn.dispose();
  }
  const link = element("a", { href: url, download: `bandmaster-${panel.id}.${kind}` });
  link.click();
}

// ---- Tables ----

function listDecisions(decisions) {
  const rows = decisions.map((d) => {
    const open = element("button", { type: "button", class: "link", text: when(d.at), id: `decision-${d.id}` });
    open.addEventListener("click", () => guarded(() => openDecision(d.id)));
    return [open, d.plan, figure(d.propensity), d.members.join(", "), figure(d.confidence, true), d.probed ? "yes" : "", figure(d.reward)];
  });
  document.getElementById("decisions").replaceChildren(
    table(["when", "plan", "probability", "ran", "confidence", "probed", "reward"], rows));
}

function listEdits(edits, state) {
  const told = JSON.stringify([edits, state?.config.version]);
  if (told === shownEdits) return;
  shownEdits = told;
  const head = ["version", "when", "who", "why", "what", "predicted"];
  const rows = edits.toReversed().map((edit) => [
    edit.version, when(edit.at), edit.author, edit.reason,
    edit.changes.map((c) => `${c.path}: ${JSON.stringify(c.before)} → ${JSON.stringify(c.after)}`).join("\n"),
    figure(edit.predicted),
  ]);
  const place = document.getElementById("edits");
  if (!rows.length) return place.replaceChildren(element("p", { text: "None." }));
  if (!state) return place.replaceChildren(table(head, rows));
  const own = [0, "", "", "", "the service's own file", ""];
  const back = (row) => [...row, row[0] === state.config.version ? "in force" : revertButton(row[0], acted)];
  place.replaceChildren(table([...head, "back"], [...rows, own].map(back)));
}

// ---- Health and actions, of a running service ----

function health(state) {
  document.getElementById("health-section").hidden = false;
  const out = Object.keys(state.worker.out_of_service);
  const told = {
    policy: `${state.policy}, snapshot ${state.snapshot_version} (worker: ${state.worker.snapshot_version})`,
    learner: `${figure(state.lag_s)} s behind, ${state.waiting} decisions waiting`,
    counts: Object.entries(state.counts).map(([name, n]) => `${n} ${name}`).join(", "),
    "out of service": out.length ? out.join(", ") : "nobody",
    "not recorded": String(state.worker.unrecorded),
    "energy is": state.worker.energy_from,
    configuration: `version ${state.config.version}${state.config.error ? `; not newer, as ${state.config.error}` : ""}`,
    ...(state.guard ? { guard: guardSentence(state.guard) } : {}),
    ...(state.agent ? { agent: `${state.agent.agent}, after ${state.agent.windows} windows` } : {}),
  };
  const list = element("dl", {}, ...Object.entries(told).flatMap(([name, text]) => [element("dt", { text: name }), element("dd", { text })]));
  document.getElementById("health").replaceChildren(list);
  shadows(state.agent?.shadows ?? []);
  actions(state.guard);
}

function guardSentence(guard) {
  const pinned = guard.pinned ? `pinned (${guard.pinned}); ` : guard.breached ? "breached; " : "";
  return `${pinned}${guard.mode}, baseline ${guard.baseline}, the policy answers ${figure(guard.share, true)}; room ${figure(guard.room)}, lost ${figure(guard.lost)}`;
}

// Where others would have been better, and how sure that is.
function shadows(each) {
  const rows = each.map((shadow) => [
    shadow.agent, `${figure(shadow.gain)}${shadow.margin === null ? "" : ` ± ${figure(shadow.margin)}`}`, shadow.requests, shadow.members.join(", "),
  ]);
  const place = document.getElementById("shadows");
  place.hidden = !rows.length;
  place.replaceChildren(table(["in the shadow", "would gain a request", "of requests", "would have"], rows));
}

// Left as they are while nothing has changed: somebody may be about to press one.
function actions(guard) {
  const told = JSON.stringify(guard && [guard.pinned, guard.mode, guard.baseline]);
  if (told === shownGuard) return;
  shownGuard = told;
  document.getElementById("actions").replaceChildren(...(guard ? guardButtons(guard, acted) : []));
}

const acted = () => guarded(refresh);

// ---- Going on ----

async function guarded(work) {
  try {
    await work();
  } catch (problem) {
    if (problem instanceof Refused && problem.status === 401) await askForToken(problem.message, work);
    else document.getElementById("status").textContent = problem.message;
    if (work === refresh && problem.status !== 401) setTimeout(news, 3000); // a service may be starting
  }
}

// And then try once more.
function askForToken(why, work) {
  const dialog = document.getElementById("token");
  document.getElementById("token-why").textContent = why;
  return new Promise((go) => {
    dialog.addEventListener("close", () => {
      keepToken(LOOK, dialog.querySelector("input").value);
      go(guarded(work));
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

let due = false;
let busy = false;

// Whatever happens meanwhile is one more refresh, not several; and who does not look is not served.
async function news() {
  due = true;
  if (busy || document.hidden) return;
  busy = true;
  while (due && !document.hidden) {
    due = false;
    if (filters.live.checked) await guarded(refresh);
    await new Promise((go) => setTimeout(go, 2000));
  }
  busy = false;
}

build();
filters.addEventListener("change", () => guarded(refresh));
filters.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => !document.hidden && news());
await guarded(refresh);
guarded(() => listen(news));
