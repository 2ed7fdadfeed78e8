// One decision's page, in a dialog.

import { ask } from "./api.js";
import { figure } from "./charts.js";
import { element, table, when } from "./elements.js";

const listed = (labels) => (labels === null ? null : labels.map((label) => (label === null ? "–" : String(label))).join(", "));

export async function openDecision(id) {
  const d = await ask(`decisions/${encodeURIComponent(id)}`);
  const dialog = document.getElementById("decision");
  const close = element("button", { type: "button", text: "Close" });
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(
    close,
    element("h2", { id: "decision-title", text: `Decision of ${when(d.at)}` }),
    element("p", { class: "why", text: d.why }),
    described(d),
    element("h3", { text: "Plans on offer" }),
    table(["plan", "probability"], d.offered.map((offered) => [offered.plan, figure(offered.probability)])),
    ...(d.plans > d.offered.length ? [element("p", { text: `${d.plans - d.offered.length} more, less probable.` })] : []),
    element("h3", { text: "What members said" }),
    table(["member", "answer", "confidence", "s", "J", "energy is", "for", "failed"], d.said.map((s) => [
      s.member, listed(s.labels), s.confidence.map((c) => figure(c, true)).join(", "), figure(s.latency_s), figure(s.energy_j),
      s.energy_from, s.probe ? "the probe" : "the reply", s.error ?? "",
    ])),
    element("p", { text: d.combined }),
    element("h3", { text: "What came of it" }),
    earned(d),
    element("h3", { text: "What was known" }),
    known(d.state),
  );
  dialog.showModal();
}

function list(told) {
  return element("dl", {}, ...told.flatMap(([name, text]) => [element("dt", { text: name }), element("dd", { text })]));
}

function described(d) {
  return list([
    ["id", d.id],
    ["plan", `${d.plan}, with probability ${figure(d.propensity)}`],
    ["policy", `${d.policy}, version ${d.policy_version}; profile ${d.profile}`],
    ["answer", `${listed(d.labels)} (confidence ${d.confidence.map((c) => figure(c, true)).join(", ")})`],
    ["all members at once", d.everybody === null ? "nobody knows: not all of them were asked" : `would have answered ${listed(d.everybody)}`],
    ["probe", `with probability ${figure(d.probe_p)}`],
  ]);
}

function earned(d) {
  if (d.outcome_at === null) return element("p", { text: "No outcome has come yet." });
  const told = [["outcome", `${d.outcome === null ? "a reward" : listed(d.outcome)}, ${when(d.outcome_at)}${d.source ? `, from ${d.source}` : ""}`]];
  if (d.reward === null) told.push(["reward", "none: it could not be learned from"]);
  else told.push(["reward", figure(d.reward)]);
  const rows = Object.entries(d.raw).map(([name, raw]) => [name, figure(raw), figure(d.terms[name])]);
  return element("div", {}, list(told), ...(rows.length ? [table(["metric", "figure", "term"], rows)] : []));
}

function known(state) {
  return list(Object.entries(state).map(([name, value]) => [name.replace("_", " "), typeof value === "object" ? JSON.stringify(value) : String(value)]));
}
