// The service: every request that the page sends, and what goes wrong on the way.

/** What went wrong, in words for a person. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, request = "", wait = 0 } = {}) {
    super(detail);
    Object.assign(this, { title, detail, status, request, wait });
  }

  /** Whether the service wants a key that it has not got. */
  get needsKey() { return this.status === 401 || this.status === 403; }
}

const UNREACHABLE = new Problem(
  "No answer", "The service can’t be reached. See whether it runs, then try again.");

/** Keep a key in this tab, until it is closed. */
export const keepKey = (key) => sessionStorage.setItem("key", key);
export const hasKey = () => sessionStorage.getItem("key") !== null;

function authorization() {
  return hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem("key")}` } : {};
}

/** Make a Problem of an answer that is no success. */
function problemOf(status, text, header) {
  let body = {};
  try { body = JSON.parse(text); } catch { /* a proxy in between may answer with anything */ }
  const wait = status === 429 || status === 503 ? Number(header("Retry-After") || 2) : 0;
  const title = body.title ?? `Error ${status}`;
  const detail = body.detail ?? "Something between this page and the service refused the request.";
  return new Problem(title, detail, { status, wait, request: header("X-Request-Id") ?? "" });
}

/** Ask the service for a path; throw a Problem unless it succeeds. */
export async function ask(path, { headers = {}, ...options } = {}) {
  const all = { ...headers, ...authorization() };
  const response = await fetch(path, { ...options, headers: all }).catch((error) => {
    throw error.name === "AbortError" ? error : UNREACHABLE;
  });
  if (response.ok) return response;
  throw problemOf(response.status, await response.text(), (name) => response.headers.get(name));
}

export const askJson = async (path, options) => (await ask(path, options)).json();

/** What the service tells its page: whether there is a map, its basemap, the formats of /segment. */
export const settings =
  askJson("page.json").catch(() => ({ map: false, basemap: null, formats: [] }));

/** Upload an image and begin its job. `fetch` tells nothing of an upload's progress: this does. */
export function beginJob(file, onSent, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "processes/segment-buildings/execution");
    request.setRequestHeader("Prefer", "respond-async");
    for (const [name, value] of Object.entries(authorization())) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded / total);
    request.onerror = () => reject(UNREACHABLE);
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    request.onload = () => {
      if (request.status === 201) return resolve(JSON.parse(request.responseText));
      const header = (name) => request.getResponseHeader(name);
      reject(problemOf(request.status, request.responseText, header));
    };
    signal.addEventListener("abort", () => request.abort());
    const body = new FormData();
    body.append("file", file);
    request.send(body);
  });
}

/** Return the path of a job's result in a format. */
export function resultPath(id, format, parameters) {
  return `jobs/${id}/results?${new URLSearchParams({ format, ...parameters })}`;
}
