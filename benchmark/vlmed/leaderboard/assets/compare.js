// Two models or more over all tables that have them: each one's difference from a reference, the first of the chosen.

const form = document.getElementById("choice"), adding = document.getElementById("add"), reference = document.getElementById("reference");
const names = data ? data.models.map((model) => `${model.org}/${model.name}`) : [];
let chosen = [];

// Where the pair of rows i < j stands among all pairs of n rows.
const pairIndex = (n, i, j) => i * n - (i * (i + 1)) / 2 + (j - i - 1);

// How row i of a table differs from row j; above zero, i is better.
function difference(table, i, j) {
  const pair = pairIndex(table.rows.length, Math.min(i, j), Math.max(i, j));
  const value = table.sign * (table.rows[i][1] - table.rows[j][1]);
  const reach = table.reach[pair] < 0 ? null : table.reach[pair] / 10000;
  const verdict = table.apart[pair] === "0" ? "no" : value > 0 ? "better" : "worse";
  return { model: table.rows[i][0], row: table.rows[i], value, reach, verdict };
}

// The tables that have the reference and one more of the chosen.
function comparisons([base, ...others]) {
  return data.tables.flatMap((table) => {
    const place = (model) => table.rows.findIndex((row) => row[0] === model);
    const j = place(base), found = others.map(place).filter((i) => i >= 0);
    return j < 0 || !found.length ? [] : [{ table, base: table.rows[j], found: found.map((i) => difference(table, i, j)) }];
  });
}

const scores = ([, value, low, high]) => [decimal(value), ...(low === null ? [] : [make("small", {}, `${decimal(low)}–${decimal(high)}`)])];
const modelLink = (model) => make("a", { href: data.models[model].page }, make("bdi", {}, data.models[model].name));

function row(one, axis) {
  const { value, reach, verdict } = one;
  const interval = reach === null ? "no interval" : `${signed(value - reach)} to ${signed(value + reach)}`;
  const chart = reach === null ? "" : whisker(axis, value - reach, value + reach, value, `${signed(value)}, 95 % interval ${interval}`);
  return make("tr", {}, make("th", { scope: "row" }, modelLink(one.model)),
    make("td", { class: "number" }, ...scores(one.row)),
    make("td", { class: "number score" }, signed(value), make("small", {}, interval)),
    make("td", { class: "chart" }, chart),
    make("td", {}, make(verdict === "no" ? "span" : "strong", verdict === "no" ? { class: "none" } : {}, verdict)));
}

function body({ table, base, found }, axis) {
  const title = make("th", { scope: "rowgroup", colspan: 5 }, make("a", { href: table.page }, table.task), ` · ${table.track} · ${table.metric}`);
  if (table.phantom) title.append(" ", make("span", { class: "mark" }, "phantom"));
  title.append(make("small", {}, make("bdi", {}, data.models[base[0]].name), ` ${decimal(base[1])}`, base[2] === null ? "" : ` (${decimal(base[2])}–${decimal(base[3])})`));
  return make("tbody", {}, make("tr", { class: "group" }, title), ...found.map((one) => row(one, axis)));
}

function sumRow(model, all) {
  const mine = all.flatMap(({ found }) => found.filter((one) => one.model === model));
  const count = (verdict) => make("td", { class: "number" }, String(mine.filter((one) => one.verdict === verdict).length));
  return make("tr", {}, make("th", { scope: "row" }, modelLink(model)), count("better"), count("worse"), count("no"), make("td", { class: "number" }, String(mine.length)));
}

function chip(model) {
  const remove = make("button", { type: "button", "aria-label": `Remove ${names[model]}` }, "×");
  remove.addEventListener("click", () => { choose(chosen.filter((one) => one !== model)); adding.focus(); });
  return make("li", {}, make("bdi", {}, names[model]), " ", remove);
}

function drawChoice() {
  reference.replaceChildren(...[...chosen].sort((a, b) => a - b).map((model) => make("option", { value: model }, names[model])));
  reference.value = String(chosen[0]);
  document.getElementById("chosen").replaceChildren(...chosen.slice(1).map(chip));
  document.getElementById("models").replaceChildren(...names.filter((_, model) => !chosen.includes(model)).map((name) => make("option", { value: name })));
}

function drawTables(all) {
  const base = data.models[chosen[0]].name;
  const ends = all.flatMap(({ found }) => found.flatMap(({ value, reach }) => (reach === null ? [] : [value - reach, value + reach])));
  const axis = axisOver([0, ...ends]);
  document.getElementById("difference-axis").replaceChildren(make("span", { class: "hidden" }, "95 % interval"), drawAxis(axis));
  document.getElementById("compare-caption").textContent = `Score minus that of ${base}, task by task`;
  document.getElementById("sum-caption").textContent = `Told apart from ${base}`;
  const table = document.getElementById("differences");
  for (const old of [...table.tBodies]) old.remove();
  table.append(...all.map((one) => body(one, axis)));
  document.getElementById("sum").replaceChildren(...chosen.slice(1).map((model) => sumRow(model, all)));
  for (const region of document.querySelectorAll("[data-result]")) region.hidden = !all.length;
}

function choose(models, said = "") {
  chosen = models;
  const all = comparisons(chosen), pairs = all.flatMap(({ found }) => found);
  drawChoice();
  drawTables(all);
  const apart = pairs.filter(({ verdict }) => verdict !== "no").length;
  status.textContent = said || (chosen.length < 2 ? "Add a model to compare with." : !pairs.length ? "The reference has no ranked result in common with the others."
    : `${pairs.length} ${pairs.length === 1 ? "difference" : "differences"} on ${all.length} ${all.length === 1 ? "ranking" : "rankings"}, ${apart} told apart`);
  setAddress({ models: chosen.map((model) => names[model]).join(",") });
}

function add() {
  const text = adding.value.trim(), found = names.indexOf(text), same = data.models.flatMap((model, index) => (model.name === text ? [index] : []));
  const model = found >= 0 ? found : same.length === 1 ? same[0] : -1;
  if (model < 0) return choose(chosen, `No ranked model is called “${text}”; write owner/name.`);
  adding.value = "";
  choose(chosen.includes(model) ? chosen : [...chosen, model]);
}

// The model that shares most results with another one.
function nearest(model) {
  const shared = data.models.map((_, other) => (model === other ? -1 : comparisons([model, other]).length));
  return shared.indexOf(Math.max(...shared));
}

// Links of earlier versions name two models, `a` minus `b`.
function restore() {
  const view = viewOfAddress(), wanted = (view.get("models") ?? [view.get("b"), view.get("a")].filter(Boolean).join(",")).split(",");
  const known = [...new Set(wanted.map((name) => names.indexOf(name)).filter((model) => model >= 0))];
  if (!known.length) known.push(0);
  choose(known.length > 1 ? known : [...known, nearest(known[0])]);
}

if (data) {
  reference.addEventListener("change", () => choose([Number(reference.value), ...chosen.filter((model) => model !== Number(reference.value))]));
  form.addEventListener("submit", (event) => { event.preventDefault(); add(); });
  addEventListener("hashchange", restore);
  form.hidden = false;
  restore();
}
