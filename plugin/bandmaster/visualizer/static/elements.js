// Elements and texts. Whatever comes from others becomes text, never markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function table(head, rows) {
  const cell = (kind, content) => (content instanceof Node ? element(kind, {}, content) : element(kind, { text: content ?? "–" }));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col", text })))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((content) => cell("td", content))))));
}

export function when(at) {
  return new Date(at * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
}
