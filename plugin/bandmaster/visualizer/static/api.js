// Asks the service, with the token that was given if one was, and listens for news.

const KEPT = "bandmaster-token";

export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(KEPT, token);
}

function headers(extra = {}) {
  const token = sessionStorage.getItem(KEPT);
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
  return (await sent(asked ? `${path}?${asked}` : path, { headers: headers() })).json();
}

export async function act(method, path, body) {
  const options = { method, headers: headers(body ? { "content-type": "application/json" } : {}) };
  if (body) options.body = JSON.stringify(body);
  return (await sent(path, options)).json();
}

// Calls `told` whenever there is news; opens another stream where one has ended, and waits a little where one has failed.
export async function listen(told) {
  for (;;) {
    try {
      const response = await sent("stream", { headers: headers({ accept: "text/event-stream" }) });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        if (part.value.includes("event: news")) told();
      }
    } catch (problem) {
      if (problem.status === 401) throw problem;
      await new Promise((go) => setTimeout(go, 3000));
    }
  }
}
