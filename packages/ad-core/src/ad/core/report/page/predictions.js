
// The page of what was predicted on new pictures, whose truth nobody knows.
// A picture is called defective if its score is above the threshold, as `ad` itself does it.

const { unread } = data;
const items = data.gallery.map((item, index) => ({ index, ...item }));
const state = { threshold: saved ?? axis.to, shown: PAGE, viewed: -1, colours: "heat" };
/** How many pictures each score stands for: more than one where there are too many for a page. */
const weight = data.scores.length ? data.numScored / data.scores.length : 1;

const isDefective = (item) => item.score > state.threshold;

/** How many pictures are called defective; about that many where scores stand for several. */
function numDefective() {
  const above = data.scores.filter((score) => score > state.threshold).length;
  if (state.threshold === saved) return data.numDefective;
  return Math.round(above * weight);
}

function showScores() {
  if (saved === null) return;
  const part = (called) => data.scores.filter((score) => score > state.threshold === called);
  histogram([{ name: "pictures", total: data.numScored, weight, bars: [["good", part(false)], ["defective", part(true)]] }],
    "Scores of the pictures; the words below have the counts.");
}

function showCounts() {
  const called = numDefective();
  const about = weight > 1 && state.threshold !== saved ? "about " : "";
  const words = `${about}${called} of ${count(data.numScored, "picture")} called defective, ${about}${data.numScored - called} called good`;
  at("counts").textContent = `${words[0].toUpperCase()}${words.slice(1)}.`;
  const moved = state.threshold !== saved;
  at("moved").hidden = !moved;
  at("moved").textContent = `Moved from ${short(saved)}, at which the verdicts in predictions.csv were made. A threshold that is chosen by looking at pictures promises no rate of false alarms.`;
  at("slider").setAttribute("aria-valuetext", `${short(state.threshold)}: ${about}${called} called defective`);
}

// --- the gallery -------------------------------------------------------------------------------

/** The gallery's pictures that were asked for, the highest scores first. */
function order() {
  const what = at("show").value;
  return items.filter((item) => saved === null || what === "all" || isDefective(item) === (what === "defective"));
}

function badge(item) {
  if (saved === null) return { words: "", wrong: false };
  return isDefective(item) ? { words: "defective", wrong: true } : { words: "good", wrong: false };
}

function describe(item) {
  showRegions(item);
  if (saved === null) return [`Score ${short(item.score)}, no verdict.`];
  const { words, wrong } = badge(item);
  return [make("span", { class: `badge ${wrong ? "mistake" : "right"}` }, words),
    ` Score ${short(item.score)}, ${item.normalized.toFixed(2)} on the scale from 0 to 1, ${short(Math.abs(item.score - state.threshold))} ${wrong ? "above" : "below"} the threshold.${item.regions.length ? "" : wrong && has.boxes ? " No region of its map is above the pixel threshold." : ""}`];
}

function showRegions(item) {
  at("viewer-regions").hidden = !item.regions.length;
  at("viewer-regions").replaceChildren(table(["region", "x", "y", "width", "height", "area in pixels", "highest score"],
    item.regions.map(([x0, y0, x1, y1, area, peak], place) => [place + 1, x0, y0, x1 - x0, y1 - y0, area, short(peak)])));
  if (item.numRegions > item.regions.length) {
    at("viewer-regions").append(make("p", { class: "small" }, `The ${item.regions.length} largest of ${item.numRegions} regions.`));
  }
}

function galleryCount() {
  if (items.length === data.numScored) return `All ${count(items.length, "picture")} are here.`;
  const each = saved === null ? ""
    : ` ${data.shownDefective} of ${data.numDefective} called defective and, smaller, ${items.length - data.shownDefective} of the others,`;
  return `This file holds ${items.length} of ${data.numScored} pictures:${each} those with the highest scores, at most ${data.most} however many there are. predictions.csv lists all.`;
}

// --- the rest of the page ----------------------------------------------------------------------

function showHead() {
  at("title").textContent = data.title;
  const lost = data.numUnread ? `; ${data.numUnread} could not be read` : "";
  at("lead").textContent = saved === null
    ? `${count(data.numScored, "picture")} scored, without verdicts${lost}.`
    : `${data.numDefective} of ${count(data.numScored, "picture")} ${data.numDefective === 1 ? "is" : "are"} called defective${lost}.`;
  at("notes").replaceChildren(...data.notes.map((text) => make("li", {}, text)));
  at("facts").append(...pairs(data.facts));
  at("unread-count").textContent = unread.length < data.numUnread
    ? `The first ${unread.length} of ${data.numUnread}; predictions.csv lists all.` : "They have no verdict.";
  at("unread").append(table(["picture", "why"], unread));
}

function update({ resting = true } = {}) {
  showThreshold();
  showScores();
  showCounts();
  showKeep();
  if (resting) showGallery(); else showBadges();
}

const has = {
  threshold: saved !== null && items.length > 0,
  pictures: items.length > 0,
  maps: items.some(({ heat }) => heat !== null),
  colours: items.some(({ own }) => own !== null),
  boxes: items.some(({ regions }) => regions.length > 0),
  outlines: data.outlines !== "",
  unread: data.numUnread > 0,
};
for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !has[element.dataset.needs];
at("outline-words").textContent = data.outlines;
showHead();
if (has.pictures) {
  at("show").append(...["all", "defective", "good"].map((value) => make("option", { value }, value)));
  at("show").addEventListener("change", () => { state.shown = PAGE; showGallery(); });
  listenToGallery();
}
if (has.threshold) {
  addPresets([["As predicted", saved]]);
  listenToThreshold(showScores);
  update();
} else if (has.pictures) {
  showGallery();
}
