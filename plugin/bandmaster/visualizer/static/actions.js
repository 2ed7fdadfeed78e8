// What an admin may do. Each is asked for in a dialog, which stays until it is done or left.

import { ACT, act, keepToken } from "./api.js";
import { element } from "./elements.js";

const MODES = ["off", "shadow", "canary", "live"];
const WHY = { name: "why", label: "Why? It is written down, with who did it.", value: "from the dashboard" };

// The buttons for a guard; `done` is called when something has been done.
export function guardButtons(guard, done) {
  const pin = guard.pinned
    ? button("pin", "Let the guard decide again", `Since it was pinned: ${guard.pinned}`, [], () => act("DELETE", "pin"), done)
    : button("pin", "Have the baseline answer everything", `${guard.baseline} answers from the next request on.`, [WHY],
      (given) => act("PUT", "pin", given), done);
  if (!guard.pinned) pin.className = "grave";
  const fields = [
    { name: "mode", label: "Mode", value: guard.mode, choices: MODES },
    { name: "baseline", label: "Baseline, a plan", value: guard.baseline }, WHY,
  ];
  const change = button("guard", "Change the guard", "How far the policy is followed, and which plan it is held against.", fields,
    (given) => changed(guard, given), done);
  return [pin, change];
}

// What was left as it is stays whatever it has become meanwhile.
function changed(guard, { why, ...given }) {
  const others = Object.fromEntries(Object.entries(given).filter(([name, value]) => value !== guard[name]));
  return Object.keys(others).length ? act("PUT", "guard", { ...others, why }) : null;
}

// The button that has the configuration be again what it was at a version.
export function revertButton(version, done) {
  const told = version ? `The configuration becomes what it was at version ${version}.` : "No edit is in force any more.";
  return button(`revert-${version}`, "Go back to this", told, [WHY], (given) => act("POST", "edits/revert", { version, ...given }), done);
}

function button(id, title, told, fields, work, done) {
  const made = element("button", { type: "button", text: title, id });
  made.addEventListener("click", () => ask(title, told, fields, work, done));
  return made;
}

function ask(title, told, fields, work, done) {
  const dialog = document.getElementById("act");
  const wrong = element("p", { role: "alert", class: "bad" });
  const token = input({ name: "token", label: "Admin's token", type: "password", value: "" });
  const inputs = fields.map(input);
  const leave = element("button", { type: "button", text: "Leave it" });
  leave.addEventListener("click", () => dialog.close());
  const form = element("form", {}, element("h2", { id: "act-title", text: title }), element("p", { text: told }), ...inputs,
    wrong, element("p", {}, element("button", { value: "do", class: "grave", text: "Do it" }), " ", leave));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    if (given.token) keepToken(ACT, given.token);
    delete given.token;
    try {
      await work(given);
    } catch (problem) {
      wrong.textContent = problem.message;
      if (problem.status === 401) wrong.before(token);
      return;
    }
    dialog.close();
    done();
  });
  dialog.replaceChildren(form);
  dialog.showModal();
}

function input({ name, label, value, choices, type = "text" }) {
  const made = choices
    ? element("select", { name }, ...choices.map((text) => element("option", { text, selected: text === value && "" })))
    : element("input", { name, value, type, required: "", maxlength: "500", autocomplete: "off" });
  return element("label", { text: `${label} ` }, made);
}
