// Which model should I use? For a modality, a number of labelled images and what a machine can do.

const byId = (id) => document.getElementById(id);
const [TASK, MODEL, TRACK, SHARE, IMAGES, EFFORT, VALUE, LOW, HIGH, COST, SEEN] = Array.from({ length: 11 }, (_, index) => index);
const BEST = 5, ASKED = ["modality", "images", "effort"];

function fitting(task) {
  const most = byId("images").value === "" ? Infinity : Number(byId("images").value);
  const sure = (option) => (data.tasks[task].higher ? option[LOW] : -option[HIGH]);
  // Where nobody knows how many images the training split has, only a reader with any number of them can use it.
  const found = data.options.filter((option) => option[TASK] === task && option[EFFORT] <= Number(byId("effort").value)
    && (option[IMAGES] === null ? most === Infinity : option[IMAGES] <= most));
  return found.sort((a, b) => sure(b) - sure(a) || a[COST] - b[COST]).slice(0, BEST);
}

function line(option, axis) {
  const model = data.models[option[MODEL]];
  const label = `${decimal(option[VALUE])}, 95 % interval ${decimal(option[LOW])} to ${decimal(option[HIGH])}`;
  const images = option[IMAGES] === null ? "not known" : option[IMAGES].toLocaleString("en");
  const seen = option[SEEN] === "exposed" ? make("span", { class: "mark" }, "exposed") : option[SEEN];
  return make("tr", {}, make("th", { scope: "row" }, make("a", { href: model.page }, make("bdi", {}, model.name)), make("small", {}, make("bdi", {}, model.org))),
    make("td", {}, option[TRACK], option[SHARE] < 1 ? make("small", {}, `${Number((100 * option[SHARE]).toPrecision(3))} % of the training data`) : ""),
    make("td", { class: "number score" }, decimal(option[VALUE]), make("small", {}, `${decimal(option[LOW])}–${decimal(option[HIGH])}`)),
    make("td", { class: "chart" }, whisker(axis, option[LOW], option[HIGH], option[VALUE], label)),
    make("td", { class: "number" }, images), make("td", { class: "number" }, option[COST] ? quantity(option[COST]) : "none"), make("td", {}, seen));
}

function table(index, options) {
  const task = data.tasks[index];
  const axis = axisOver(options.flatMap((option) => [option[LOW], option[HIGH]]));
  const head = ["Model", "How", task.metric, drawAxis(axis), "Labelled images", "Training cost", "Contamination"].map((text, column) =>
    make("th", { scope: "col", class: [2, 4, 5].includes(column) ? "number" : column === 3 ? "chart" : "" }, column === 3 ? make("span", { class: "hidden" }, "95 % interval") : "", text));
  const caption = make("caption", {}, make("a", { href: task.page }, task.title), ` · ${task.metric} on ${task.part} samples`);
  const body = make("tbody", {}, ...options.map((option) => line(option, axis)));
  return make("div", { class: "scroll", role: "region", "aria-label": task.title, tabindex: "0" }, make("table", { class: "rows" }, caption, make("thead", {}, make("tr", {}, ...head)), body));
}

function update() {
  const tasks = data.tasks.flatMap((task, index) => (task.modality === byId("modality").value ? [index] : []));
  const found = tasks.map((task) => [task, fitting(task)]).filter(([, options]) => options.length);
  byId("advised").replaceChildren(...found.map(([task, options]) => table(task, options)));
  status.textContent = found.length ? `Evidence from ${found.length} ${found.length === 1 ? "task" : "tasks"}` : "No result fits. Allow for more images or compute, or submit one.";
  if (!onAnchor()) setAddress(Object.fromEntries(ASKED.map((id) => [id, byId(id).value])));
}

function restore() {
  const view = viewOfAddress();
  for (const id of ASKED) if (view.has("modality")) byId(id).value = view.get(id) ?? "";
  if (byId("modality").selectedIndex < 0) byId("modality").selectedIndex = 0;
}

if (data.tasks.length) {
  byId("modality").append(...[...new Set(data.tasks.map((task) => task.modality))].sort().map((name) => make("option", { value: name }, name)));
  restore();
  for (const id of ASKED) byId(id).addEventListener("change", () => { leaveAnchor(); update(); });
  byId("advice").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { if (!onAnchor()) { restore(); update(); } });
  byId("advice").hidden = false;
  update();
}
