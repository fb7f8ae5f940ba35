// The ranking over many tasks. Bounds follow the rules of vlmed.leaderboard.aggregate: what is missing may be anything.

const byId = (id) => document.getElementById(id);
const root = document.querySelector(".bar .brand").getAttribute("href").replace("index.html", "");
const CHOICES = ["task", "modality", "domain", "size", "seen", "search", "frozen", "verified"];
const GROUPS = [["gain", "Mean gain"], ["coverage", "Tasks run"], ["tasks", "Score per task"], ["parameters", "Parameters"], ["cost", "Training cost"]];
const PAGE = 100, AT_ONCE = 25;
const names = new Intl.Collator("en", { numeric: true }); // made once: localeCompare makes one for every pair
const [VALUE, LOW, HIGH, BEST, WORST, GAIN, LEAST, SEEN, VERIFIED] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
let order = { key: "rank", sign: 1 }, shown = PAGE, hidden = new Set(), waiting = 0;
let stood = { tasks: null, all: [] };

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function summarise(model, tasks) {
  const cells = tasks.map((task) => model.cells[task]);
  const bounds = tasks.map((task) => {
    const cell = model.cells[task];
    return cell ? [cell[BEST], cell[WORST]] : [1, data.tasks[task].ranked + 1];
  });
  const gains = cells.map((cell) => (cell && cell[GAIN] !== null ? [cell[LEAST], cell[GAIN]] : [-1, 1]));
  return {
    model,
    run: cells.filter(Boolean).length,
    low: mean(bounds.map(([low]) => low)),
    high: mean(bounds.map(([, high]) => high)),
    gain: [mean(gains.map(([low]) => low)), mean(gains.map(([, high]) => high))],
    clean: cells.every((cell) => !cell || cell[SEEN] === 0),
    verified: cells.every((cell) => !cell || cell[VERIFIED] === 1),
    cell: tasks.length === 1 ? cells[0] : null,
  };
}

// How many bounds lie surely before and surely after each, in one pass over sorted ends.
function place(all) {
  const lows = all.map((one) => one.low).sort((a, b) => a - b), highs = all.map((one) => one.high).sort((a, b) => a - b);
  const below = (sorted, value) => {
    let from = 0, to = sorted.length;
    while (from < to) sorted[(from + to) >> 1] < value ? (from = ((from + to) >> 1) + 1) : (to = (from + to) >> 1);
    return from;
  };
  for (const one of all) {
    const notAfter = below(lows, one.high + 1e-9);
    one.place = [1 + below(highs, one.low - 1e-9), notAfter];
  }
}

// All models over these tasks: neither sorting nor searching changes them.
function standings(tasks) {
  if (stood.tasks === String(tasks)) return stood.all;
  const all = data.models.map((model) => summarise(model, tasks)).filter((one) => one.run);
  place(all);
  if (!data.models.some((model) => tasks.some((task) => model.cells[task] && model.cells[task][GAIN] !== null))) for (const one of all) one.gain = null;
  if (tasks.length === 1) for (const one of all) one.place = [one.cell[BEST], one.cell[WORST]];
  stood = { tasks: String(tasks), all };
  return all;
}

function chosenTasks() {
  return data.tasks.flatMap((task, index) => {
    const fits = (!byId("task").value || byId("task").value === task.name)
      && (!byId("modality").value || byId("modality").value === task.modality) && (!byId("frozen").checked || task.frozen);
    return fits ? [index] : [];
  });
}

function fits(one) {
  const { model } = one, words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [least, most] = byId("size").value.split("-").map((text) => (text ? Number(text) : Infinity));
  const text = `${model.org} ${model.name} ${model.adapter}`.toLowerCase();
  return words.every((word) => text.includes(word)) && (!byId("domain").value || model.domain === byId("domain").value)
    && (!byId("size").value || (model.parameters > least && model.parameters <= most) || (least === 0 && model.parameters === 0))
    && (!byId("seen").value || one.clean) && (!byId("verified").checked || one.verified);
}

function columns(tasks, all) {
  const single = tasks.length === 1 ? data.tasks[tasks[0]] : null;
  const ends = single ? all.flatMap(({ cell }) => cell.slice(VALUE, HIGH + 1).filter((end) => end !== null)) : all.flatMap((one) => [one.low, one.high]);
  const axis = axisOver(ends);
  const list = [
    { key: "rank", title: "Place", class: "rank", value: (one) => (single ? one.place[0] + one.place[1] / 1e4 : one.high + one.low / 1e6), cell: (one) => [span(...one.place)] },
    { key: "model", title: "Model", class: "model", text: true, head: true, value: (one) => one.model.name, cell: nameCell },
  ];
  if (single) {
    list.push({ key: "score", title: `${single.metric} ${single.higher ? "↑" : "↓"}`, class: "number score", down: single.higher, value: (one) => one.cell[VALUE], cell: ({ cell }) => [decimal(cell[VALUE]), make("small", {}, cell[LOW] === null ? "no interval" : `${decimal(cell[LOW])}–${decimal(cell[HIGH])}`)] });
    list.push({ class: "chart", axis, cell: ({ cell }) => cell[LOW] === null ? [] : [whisker(axis, cell[LOW], cell[HIGH], cell[VALUE], `${decimal(cell[VALUE])}, 95 % interval ${decimal(cell[LOW])} to ${decimal(cell[HIGH])}`)] });
  } else {
    list.push({ key: "mean", title: "Mean rank", class: "number score", value: (one) => one.high, cell: (one) => [one.low === one.high ? one.low.toFixed(1) : `${one.low.toFixed(1)}–${one.high.toFixed(1)}`] });
    list.push({ class: "chart", axis, cell: (one) => [whisker(axis, one.low, one.high, null, `Mean rank between ${one.low.toFixed(1)} and ${one.high.toFixed(1)}`)] });
    list.push({ key: "coverage", title: "Tasks run", class: "number", group: "coverage", down: true, value: (one) => one.run, cell: (one) => [`${one.run} of ${tasks.length}`] });
  }
  list.push({ key: "gain", title: single ? "Gain" : "Mean gain", class: "number", group: "gain", down: true, value: (one) => one.gain?.[0] ?? null, cell: gainCell });
  if (!single) list.push(...tasks.map(taskColumn));
  list.push({ key: "parameters", title: "Parameters", class: "number", group: "parameters", value: (one) => one.model.parameters, cell: (one) => [quantity(one.model.parameters)] });
  list.push({ key: "cost", title: "Training cost", class: "number", group: "cost", value: (one) => one.model.cost, cell: (one) => [one.model.cost ? quantity(one.model.cost) : "none"] });
  return list.filter((column) => !hidden.has(column.group));
}

function nameCell({ model }) {
  const small = make("small", {}, make("bdi", {}, model.org), model.domain === "unknown" ? "" : ` · ${model.domain}`);
  const name = make("a", { href: root + model.page }, make("bdi", {}, model.name));
  return model.adapter ? [name, make("small", { class: "adapter" }, make("bdi", {}, model.adapter.slice(0, 60))), small] : [name, small];
}

function gainCell(one) {
  if (!one.gain) return [make("span", { class: "none" }, "not run")];
  const [low, high] = one.gain;
  return [high - low < 5e-4 ? signed(low) : `${signed(low)} to ${signed(high)}`];
}

function taskColumn(index) {
  const task = data.tasks[index];
  const link = make("a", { href: root + task.page, title: `${task.title}, ${task.metric}` }, "↗");
  return {
    key: `task-${task.name}`, title: task.name, link, class: "number", group: "tasks", down: task.higher,
    value: ({ model }) => model.cells[index]?.[VALUE] ?? null,
    cell: ({ model }) => {
      const cell = model.cells[index];
      if (!cell) return [make("span", { class: "none" }, "–")];
      const seen = cell[SEEN] === 1 ? [make("span", { class: "mark", title: "exposed: saw this data set’s images" }, "exposed")] : [];
      return [decimal(cell[VALUE]), make("small", {}, `rank ${span(cell[BEST], cell[WORST])}`), ...seen];
    },
  };
}

function headCell(column) {
  const cell = make("th", { scope: "col", class: column.class });
  if (column.axis) return cell.append(make("span", { class: "hidden" }, "Interval"), drawAxis(column.axis)), cell;
  const button = make("button", { type: "button", "data-key": column.key }, column.title);
  if (order.key === column.key) cell.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
  button.addEventListener("click", () => {
    const first = column.down ? -1 : 1;
    order = { key: column.key, sign: order.key === column.key && order.sign === first ? -first : first };
    update();
    byId("board").querySelector(`button[data-key="${column.key}"]`).focus();
  });
  cell.append(button, ...(column.link ? [" ", column.link] : []));
  return cell;
}

function sorted(rows, list) {
  const column = list.find((one) => one.key === order.key) ?? list[0];
  return [...rows].sort((one, two) => {
    const a = column.value(one), b = column.value(two);
    if (a === null || b === null) return (a === null) - (b === null);
    const by = column.text ? names.compare(a, b) : a - b;
    return order.sign * by || one.high - two.high || one.low - two.low;
  });
}

function update() {
  const tasks = chosenTasks(), all = standings(tasks);
  const list = columns(tasks, all), rows = sorted(all.filter(fits), list);
  const table = byId("board");
  table.tHead.replaceChildren(make("tr", {}, ...list.map(headCell)));
  showRows(table.tBodies[0], rows.slice(0, shown), list);
  byId("ranking-caption").textContent = tasks.length === 1 ? `${data.track} · ${data.tasks[tasks[0]].title}` : `${data.track} · ${tasks.length} tasks`;
  byId("more").hidden = rows.length <= shown;
  status.textContent = `${rows.length} of ${all.length} models`;
  if (!onAnchor()) remember();
}

// The first rows stand at once; the browser draws them before it is given the others.
function showRows(body, rows, list) {
  const line = (one) => make("tr", {}, ...list.map((column) =>
    make(column.head ? "th" : "td", column.head ? { scope: "row", class: column.class } : { class: column.class }, ...column.cell(one))));
  cancelAnimationFrame(waiting);
  body.replaceChildren(...rows.slice(0, AT_ONCE).map(line));
  const others = () => body.append(...rows.slice(AT_ONCE).map(line));
  if (rows.length > AT_ONCE) waiting = requestAnimationFrame(() => { waiting = requestAnimationFrame(others); });
}

function remember() {
  const values = Object.fromEntries(CHOICES.map((id) => [id, byId(id).type === "checkbox" ? (byId(id).checked ? "1" : "") : byId(id).value]));
  const sort = order.key === "rank" && order.sign > 0 ? "" : `${order.sign < 0 ? "-" : ""}${order.key}`;
  setAddress({ ...values, sort, hide: [...hidden].join(","), rows: shown === PAGE ? "" : String(shown) });
}

function restore() {
  const view = viewOfAddress();
  for (const id of CHOICES) byId(id).type === "checkbox" ? (byId(id).checked = view.get(id) === "1") : (byId(id).value = view.get(id) ?? "");
  for (const id of CHOICES) if (byId(id).tagName === "SELECT" && byId(id).selectedIndex < 0) byId(id).value = "";
  const sort = view.get("sort") || "rank";
  order = { key: sort.replace(/^-/, ""), sign: sort.startsWith("-") ? -1 : 1 };
  hidden = new Set((view.get("hide") ?? "").split(",").filter(Boolean));
  shown = Math.max(PAGE, Number(view.get("rows")) || 0);
  for (const box of byId("columns").querySelectorAll("input")) box.checked = !hidden.has(box.value);
}

function setUp() {
  byId("task").append(...data.tasks.map((task) => make("option", { value: task.name }, task.title === task.name ? task.name : `${task.name}: ${task.title}`)));
  byId("modality").append(...[...new Set(data.tasks.map((task) => task.modality))].sort().map((name) => make("option", { value: name }, name)));
  for (const [name, title] of GROUPS) {
    const box = make("input", { type: "checkbox", value: name });
    box.addEventListener("change", () => { box.checked ? hidden.delete(name) : hidden.add(name); update(); });
    byId("columns").append(make("label", { class: "check" }, box, ` ${title}`));
  }
  const again = () => { shown = PAGE; leaveAnchor(); update(); };
  for (const id of CHOICES) byId(id).addEventListener("input", again);
  byId("track").addEventListener("change", (event) => location.assign(event.target.value + location.hash));
  byId("more").addEventListener("click", () => { shown += PAGE; update(); });
  byId("controls-form").addEventListener("reset", () => { history.replaceState(null, "", location.pathname); setTimeout(() => { keepTrack(); restore(); update(); }); });
  byId("controls-form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { if (!onAnchor()) { restore(); update(); } });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) { event.preventDefault(); byId("search").focus(); }
  });
  byId("controls-form").hidden = byId("board-region").hidden = false;
}

// A browser may keep what was chosen on an earlier visit; the page says which track it shows.
function keepTrack() {
  for (const option of byId("track").options) option.selected = option.defaultSelected;
}

if (data) {
  setUp();
  keepTrack();
  restore();
  update();
}
