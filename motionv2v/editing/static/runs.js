// Runs of models: started, watched until they end, shown.

import { $, ask, busily, button, post } from "./session.js";

$("run").addEventListener("click", async () => {
  if (await busily("starting", () => post("/api/run", { checkpoint: $("checkpoint").value }))) watch();
});

let shown = "";

async function watch() {
  const found = await ask("/api/runs").catch(() => null);
  if (!found) return;
  const now = JSON.stringify(found.runs.slice(0, 5));
  if (now !== shown) {
    shown = now;
    $("runs").replaceChildren(...found.runs.slice(0, 5).map(row));
  }
  if (found.runs.some((each) => each.state === "running")) setTimeout(watch, 700);
}

function row(each) {
  const made = document.createElement("li");
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = `${each.id}: ${each.checkpoint}, ${each.state}`;
  made.append(name);
  if (each.state === "running") made.append(button("Cancel", () => post(`/api/runs/${each.id}/cancel`, {}).then(watch)));
  if (each.state === "done") {
    const video = document.createElement("video");
    video.controls = video.loop = true;
    video.src = `/api/runs/${each.id}/edited.mp4`;
    made.append(video);
  } else if (each.log.length) {
    const log = document.createElement("pre");
    log.textContent = each.log.slice(-4).join("\n");
    made.append(log);
  }
  return made;
}

watch();
