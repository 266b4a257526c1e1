// How the page reaches its session: over HTTP from the server that sent it, or through the notebook cell that holds it.
//
// A notebook puts the page into a frame and a function on that frame's element, `motionv2v(message)`, which hands a
// message to the session in the kernel and returns its answer: Colab's invokeFunction, or a widget's messages. Both
// carry json of bounded size, so that bytes go as base64, in parts.

/** The header of a request that may come twice and is to be done once: an answer that got lost is given again. */
export const ONCE = "X-Once";
const PART = 384 * 1024; // bytes of a part; a multiple of 3, so that parts of base64 can be joined

const invoke = (() => {
  try {
    return window.frameElement?.motionv2v || null;
  } catch {
    return null; // the frame is another site's
  }
})();

/** Whether the page lies in a cell of a notebook. */
export const isNotebook = Boolean(invoke);

/** Ask the session: as fetch, of paths of this page alone; returns a Response. */
export async function request(path, options = {}) {
  return invoke ? ask(path, options) : fetch(path, options);
}

async function ask(path, { method = "GET", body = null, headers = {} } = {}) {
  let upload = null;
  if (body !== null) {
    const content = new Uint8Array(await new Response(body).arrayBuffer());
    upload = `${Date.now()}-${Math.random()}`;
    let from = 0;
    do {
      const data = toBase64(content.subarray(from, from + PART));
      const refused = await invoke({ do: "part", upload, data });
      if (refused.status) return response(refused, [fromBase64(refused.data)]);
      from += PART;
    } while (from < content.length);
  }
  const answer = await invoke({ do: "ask", method, path, upload, once: headers[ONCE] });
  const parts = [fromBase64(answer.data)];
  let size = parts[0].length;
  while (size < answer.size) {
    const part = await invoke({ do: "more", answer: answer.answer, from: size });
    if (part.status) return response(part, [fromBase64(part.data)]); // it is no longer kept
    parts.push(fromBase64(part.data));
    size += parts[parts.length - 1].length;
  }
  return response(answer, parts);
}

const response = (answer, parts) => new Response(new Blob(parts), { status: answer.status, headers: answer.headers });

function toBase64(bytes) {
  let text = "";
  for (let from = 0; from < bytes.length; from += 32768) text += String.fromCharCode(...bytes.subarray(from, from + 32768));
  return btoa(text);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** Turn a path into an address that an element can show: its own, or of the content; "" where there is none. */
async function address(path) {
  if (!invoke) return path;
  const answer = await request(path).catch(() => null);
  return answer?.ok ? URL.createObjectURL(await answer.blob()) : "";
}

const revoke = (found) => found.startsWith("blob:") && URL.revokeObjectURL(found);

/** Let a picture or a film show what lies at a path, in place of what it showed. */
export async function show(element, path) {
  element.dataset.shows = path;
  const found = await address(path);
  if (element.dataset.shows !== path) return revoke(found); // something else was asked for meanwhile
  revoke(element.src);
  if (found) element.src = found;
}

/** Let go of what an element shows, for it goes itself. */
export function drop(element) {
  element.dataset.shows = "";
  revoke(element.src);
}

/** Give the person a file of the session; returns what was adapted in it. Throws an Error that says why there is none. */
export async function save(path) {
  const answer = await request(path).catch(() => null);
  if (!answer) throw new Error("the editor does not answer: is it still running?");
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `the editor answered ${answer.status}`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name ? name[1] : path.split("/").pop();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return answer.headers.get("X-Notices") || "";
}

if (invoke) {
  // Links that download point to the server, which is not there.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="/api/"]');
    if (!link) return;
    event.preventDefault();
    save(link.getAttribute("href")).catch((error) => dispatchEvent(new CustomEvent("problem", { detail: error })));
  });
}
