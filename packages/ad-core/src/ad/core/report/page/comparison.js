
// The page of several runs. Rows are models with their settings, columns are categories, both in
// the order in which they were given; behind a row stand its runs.

const { rows, runs } = data;
const few = runs.length <= 8;
const several = data.columns.length > 1;
const ofOne = new Set(data.columns.map((column) => column.split(" ")[0])).size === 1;
const repeated = rows.some((row) => row.runs.length > data.columns.length);

/** A category's name; with that of its data set only where there are several. */
const named = (column) => (ofOne ? column.slice(column.indexOf(" ") + 1) : column);

/** An address below this page's folder. */
const address = (link) => link.split("/").map(encodeURIComponent).join("/");

/** A run's report, or only the text if it has none. */
const linked = (run, text) =>
  (run && run.link !== null ? make("a", { href: address(run.link) }, text) : text);

/** What is said of a run within its row. */
const runName = (run) => `${Object.keys(run.columns).map(named).join(", ")}, seed ${run.seed}`;

/** A cell: the mean with its deviation, and behind it the runs it is of. */
function cell({ text, deviation, best, runs: behind, seeds, covered }) {
  const value = best ? make("strong", { class: "best" }, text, make("span", { class: "hidden" }, " (best)")) : text;
  const lacking = covered === undefined || covered === data.columns.length || covered === 0 ? ""
    : ` ${covered} of ${data.columns.length}`;
  const number = seeds ?? behind.length;
  const more = make("span", { class: "faint" },
    `${deviation === null ? "" : ` ± ${deviation}`}${number > 1 ? ` (${number})` : ""}${lacking}`);
  if (behind.length === 0) return make("span", {}, value, more);
  if (behind.length === 1) return make("span", {}, linked(runs[behind[0][0]], value), more);
  return make("details", { class: "cell" }, make("summary", {}, value, more),
    make("ul", {}, ...behind.map(([place, own]) => make("li", {},
      linked(runs[place], runs[place] ? `seed ${runs[place].seed}` : "a run"), ` ${own}`))));
}

/** The heading of a row: a model, with its settings behind it. */
const heading = (row) => make("details", { class: "cell" }, make("summary", {}, label(row)),
  make("dl", { class: "facts" }, ...pairs(row.settings)));

/** The figure that was chosen, of each row and category; the best of a column stands out. */
function showFigures() {
  if (!data.columns.length) {
    at("meaning").textContent = "None: no run has test pictures.";
    at("figure").closest("p").hidden = at("figures").hidden = true;
    return;
  }
  const chosen = data.figures.find((one) => one.key === at("figure").value);
  at("meaning").textContent = chosen.meaning;
  at("figures").replaceChildren(table(
    ["model", ...(several ? ["mean"] : []), ...data.columns.map(named)],
    rows.map((row, place) => {
      const cells = chosen.rows[place].map(cell);
      const mean = cells.pop();  // first, where it is seen however many categories there are
      return [heading(row), ...(several ? [mean] : []), ...cells];
    })));
}

/** Scores of a run as ticks, good ones above, with its threshold. */
function dots(run) {
  if (!run.good.length && !run.defective.length) return "–";
  const all = [...run.good, ...run.defective, ...(run.threshold === null ? [] : [run.threshold])];
  const width = 300;
  const low = Math.min(...all), span = Math.max(...all) - low || 1;
  const x = (score) => ((score - low) / span) * (width - 2);
  const svg = draw("svg", { class: "dots two-rows", viewBox: `0 0 ${width} 40`, preserveAspectRatio: "none", role: "img",
    "aria-label": "Scores of good and defective pictures and the threshold" });
  for (const [name, y] of [["good", 3], ["defective", 23]]) {
    for (const score of run[name]) {
      svg.append(draw("rect", { class: name, x: x(score), y, width: 1.6, height: 14 }));
    }
  }
  if (run.threshold !== null) {
    const cut = x(run.threshold) + 0.8;
    svg.append(draw("line", { class: "cut", x1: cut, x2: cut, y1: 0, y2: 40 }));
  }
  return svg;
}

/** "3 of 4" of what a threshold found, or a dash. */
const share = (part, whole) => (part === undefined || !whole ? "–" : `${part} of ${whole}`);

function showVerdicts() {
  const alone = rows.every((row) => row.runs.length === 1) && few;
  at("verdicts-words").textContent = alone
    ? "Scores of good pictures above, of defective ones below; each run has its own range. The line is the threshold."
    : "Verdicts are of all runs together, times are their mean, and memory is the most of any.";
  at("verdicts").append(table(
    ["model", "defective found", "false alarms", ...rows[0].costs.map(([title]) => title), ...(alone ? ["threshold", "scores"] : ["runs"])],
    rows.map((row) => {
      const { found, defective, false_alarms: alarms, good } = row.verdicts ?? {};
      const [run] = row.runs.map((place) => runs[place]);
      const own = row.judged && row.judged < row.runs.length
        ? `${row.runs.length}, ${row.judged} with a threshold` : String(row.runs.length);
      return [label(row), share(found, defective), share(alarms, good), ...row.costs.map(([, text]) => text),
        ...(alone ? [run.threshold === null ? "none" : short(run.threshold), dots(run)] : [own])];
    })));
}

function showContrasts() {
  at("contrasts").hidden = rows.length < 2;
  at("pairs").append(...data.contrasts.pairs.map(({ words, differs, categories }) => {
    const said = make("span", { class: differs ? "real" : "chance" }, words);
    if (!several) return make("p", {}, said);
    return make("details", {}, make("summary", {}, said), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Differences in each category" },
      table(["category", "difference", "from", "to"],
        categories.map(([column, ...numbers]) => [named(column), ...numbers.map(figure)]))));
  }));
  at("unknown").append(...data.contrasts.notes.map((note) => make("li", {}, note)));
}

function showSettings() {
  at("settings").append(data.settings.length
    ? table(["setting", ...rows.map(label)], data.settings.map(({ name, values }) => [name, ...values]))
    : "Nothing: the models have the same settings, machine and versions.");
}

/** What the runs of a row called a picture. */
function verdict(called, tested, defective) {
  if (called === null) return "–";
  const wrong = defective ? tested - called : called;
  if (!wrong) return "right";
  return make("span", { class: "badge mistake" },
    `${defective ? "missed" : "false alarm"}${tested > 1 ? ` ${wrong} of ${tested}` : ""}`);
}

function showWrong() {
  const cut = data.wrong.length < data.numWrong
    ? `; here are ${data.wrong.length}, the first ones of each category` : "";
  at("wrong-count").textContent = data.numWrong === 0
    ? (data.columns.length ? "None, at the threshold of each." : "None is known: no run has test pictures.")
    : `${count(data.numWrong, "picture")}, those first that most runs get wrong${cut}.`;
  if (!data.wrong.length) return;
  const pictured = ({ picture, name }) => make("span", { class: "pictured" },
    ...(picture === null ? [] : [make("img", { src: picture, alt: "" })]), make("span", {}, name));
  at("wrong").append(table(["picture", "of", "truth", ...rows.map(label)],
    data.wrong.map((one) => [pictured(one), named(one.column), one.defective ? one.group : "good",
      ...one.called.map((called, place) => verdict(called, one.tested[place], one.defective))])));
}

/** All that is known of one run. */
function article(run, title) {
  return make("article", {},
    make("h3", {}, title),
    make("p", { class: "small" }, `${run.title}, seed ${run.seed}, in ${run.folder}. `,
      run.link === null ? "It has no report of its own: ad report makes one."
        : linked(run, "Its own report, with pictures")),
    ...(few ? [] : [dots(run)]),
    make("ul", { class: "notes" }, ...run.notes.map((note) => make("li", {}, note))),
    make("pre", { class: "command", tabindex: "0" }, run.command));
}

function showRuns() {
  const left = data.numRuns - runs.length;
  at("runs-count").hidden = !left;
  at("runs-count").textContent = `The first ${runs.length} of ${data.numRuns}; all are in results.csv.`;
  at("runs").append(...rows.flatMap((row) => {
    const own = row.runs.map((place) => runs[place]).filter((run) => run);
    if (few) {
      return own.map((run) => article(run, own.length > 1 ? `${row.label}: ${runName(run)}` : row.label));
    }
    // Made when it is opened: hundreds of runs are a long page.
    const fold = make("details", {}, make("summary", {}, `${row.label}: ${count(row.runs.length, "run")}`));
    fold.addEventListener("toggle", () => {
      if (fold.children.length === 1) fold.append(...own.map((run) => article(run, runName(run))));
    });
    return [fold];
  }));
}

at("title").textContent = data.title;
at("notes").append(...data.notes.map((text) => make("li", {}, text)));
at("figure").append(...data.figures.map(({ key, title }) => make("option", { value: key }, title)));
at("figure").addEventListener("change", showFigures);
at("legend").textContent = [
  repeated ? "Mean ± standard deviation over seeds (their number); open a figure for its runs." : "",
  several ? "The mean is over the categories, its deviation over the seeds that all of them have." : "",
  "Open a model for its settings."].filter((words) => words).join(" ");
showFigures();
showContrasts();
showSpeeds();
showVerdicts();
showSettings();
showWrong();
showRuns();
