// What an admin may do. Each asks why, and is written down with who did it.

import { act } from "./api.js";
import { element } from "./elements.js";

const MODES = ["off", "shadow", "canary", "live"];
const WHY = { name: "why", label: "Why? It is written down, with who did it.", value: "from the dashboard" };

// The buttons for a guard; `run` does what it is given, and shows what comes of it.
export function guardButtons(guard, run) {
  const pin = button(guard.pinned ? "Let the guard decide again" : "Have the baseline answer everything", "pin", async () => {
    if (guard.pinned) return act("DELETE", "pin");
    const given = await asked("Have the baseline answer everything", `${guard.baseline} answers from the next request on.`, [WHY]);
    return given && act("PUT", "pin", given);
  }, run);
  if (!guard.pinned) pin.className = "grave";
  const change = button("Change the guard", "guard", async () => {
    const given = await asked("Change the guard", "How far the policy is followed, and which plan it is held against.", [
      { name: "mode", label: "Mode", value: guard.mode, choices: MODES },
      { name: "baseline", label: "Baseline, a plan", value: guard.baseline }, WHY,
    ]);
    return given && act("PUT", "guard", given);
  }, run);
  return [pin, change];
}

// The button that has the configuration be again what it was at a version.
export function revertButton(version, run) {
  return button("Go back to this", `revert-${version}`, async () => {
    const what = version ? `The configuration becomes what it was at version ${version}.` : "No edit is in force any more.";
    const given = await asked("Go back", what, [WHY]);
    return given && act("POST", "edits/revert", { version, ...given });
  }, run);
}

function button(text, id, work, run) {
  const made = element("button", { type: "button", text, id });
  made.addEventListener("click", () => run(work));
  return made;
}

// What was filled in, by name; nothing where the dialog was left.
function asked(title, told, fields) {
  const dialog = document.getElementById("act");
  const inputs = fields.map((field) => (field.choices
    ? element("select", { name: field.name }, ...field.choices.map((text) => element("option", { text, selected: text === field.value && "" })))
    : element("input", { name: field.name, value: field.value, required: "", maxlength: "500", autocomplete: "off" })));
  const leave = element("button", { type: "button", text: "Leave it" });
  leave.addEventListener("click", () => dialog.close(""));
  const form = element("form", { method: "dialog" }, element("h2", { id: "act-title", text: title }), element("p", { text: told }),
    ...fields.map((field, k) => element("label", { text: `${field.label} ` }, inputs[k])),
    element("p", {}, element("button", { value: "do", class: "grave", text: "Do it" }), " ", leave));
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  return new Promise((go) => {
    dialog.addEventListener("close", () => {
      go(dialog.returnValue === "do" ? Object.fromEntries(inputs.map((input) => [input.name, input.value])) : null);
    }, { once: true });
    dialog.showModal();
  });
}
