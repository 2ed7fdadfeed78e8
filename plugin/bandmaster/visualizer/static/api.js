// Asks the service, with the token that was given if one was, and listens for news.

// What a token lets one do; another scope's is a wrong one.
export const LOOK = "bandmaster-token";
export const ACT = "bandmaster-admin-token";

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export function keepToken(scope, token) {
  sessionStorage.setItem(scope, token);
}

function headers(scope, extra = {}) {
  const token = sessionStorage.getItem(scope);
  return token ? { authorization: `Bearer ${token}`, ...extra } : extra;
}

async function sent(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (response.ok) return response;
  let sentence = response.statusText;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch {
    // it was no JSON: the status says what there is to say
  }
  throw new Refused(response.status, sentence);
}

export async function ask(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const asked = new URLSearchParams(given).toString();
  return (await sent(asked ? `${path}?${asked}` : path, { headers: headers(LOOK) })).json();
}

export async function act(method, path, body) {
  const options = { method, headers: headers(ACT, body ? { "content-type": "application/json" } : {}) };
  if (body) options.body = JSON.stringify(body);
  return (await sent(path, options)).json();
}

let looking = new AbortController();
document.addEventListener("visibilitychange", () => looking.abort());

const seen = () => new Promise((go) => (document.hidden ? document.addEventListener("visibilitychange", go, { once: true }) : go()));

// Calls `told` whenever there is news; opens another stream where one has ended, and waits a little where one has failed.
// None is open while nobody looks: a browser opens six connections to a service, for all its tabs.
export async function listen(told) {
  for (;;) {
    await seen();
    looking = new AbortController();
    try {
      const response = await sent("stream", { headers: headers(LOOK, { accept: "text/event-stream" }), signal: looking.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        if (part.value.includes("event: news")) told();
      }
    } catch (problem) {
      if (problem.status === 401) throw problem;
      if (!looking.signal.aborted) await new Promise((go) => setTimeout(go, 3000));
    }
  }
}
