// Pictures take turns: a browser has six connections to a host, and commands must never wait behind what is looked at.

const MOST = 4; // under way at once, so that two connections stay free
const LANES = { clip: 2, drawn: 2, maps: 1 }; // of each: a draft may take minutes, and the clip is seen meanwhile

const under = { clip: 0, drawn: 0, maps: 0 };
let line = []; // those that wait: {lane, isWanted, go}

const isFree = (lane) => under[lane] < LANES[lane] && under.clip + under.drawn + under.maps < MOST;

/** Let those go that can, the last one that was asked for first: that is looked at now. What nobody wants is left. */
function next() {
  const all = line.splice(0);
  for (const each of all.filter(({ isWanted, go }) => isWanted() || go(false)).reverse()) {
    if (!isFree(each.lane)) {
      line.unshift(each);
      continue;
    }
    under[each.lane] += 1;
    each.go(true);
  }
}

/** Do work() when it is its turn; returns what that returns, or null where it was no longer wanted by then. */
export async function inTurn(lane, isWanted, work) {
  if (isFree(lane)) under[lane] += 1;
  else if (!(await new Promise((go) => line.push({ lane, isWanted, go })))) return null;
  try {
    return await work();
  } finally {
    under[lane] -= 1;
    next();
  }
}
