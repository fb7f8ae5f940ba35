// Two models over all tables that have both.

const choice = { a: document.getElementById("first"), b: document.getElementById("second") };

// Where the pair of rows i < j stands among all pairs of n rows.
const pairIndex = (n, i, j) => i * n - (i * (i + 1)) / 2 + (j - i - 1);

function differences(a, b) {
  return data.tables.flatMap((table) => {
    const i = table.rows.findIndex((row) => row[0] === a), j = table.rows.findIndex((row) => row[0] === b);
    if (i < 0 || j < 0) return [];
    const pair = pairIndex(table.rows.length, Math.min(i, j), Math.max(i, j));
    const difference = table.sign * (table.rows[i][1] - table.rows[j][1]);
    const reach = table.reach[pair] < 0 ? null : table.reach[pair] / 10000;
    return [{ table, first: table.rows[i], second: table.rows[j], difference, reach, apart: table.apart[pair] === "1" }];
  });
}

function row(found, axis) {
  const { table, difference, reach } = found;
  const interval = reach === null ? "no interval" : `${signed(difference - reach)} to ${signed(difference + reach)}`;
  const task = make("th", { scope: "row" }, make("a", { href: table.page }, table.task));
  if (table.phantom) task.append(make("small", {}, make("span", { class: "mark" }, "phantom")));
  const chart = reach === null ? "" : whisker(axis, difference - reach, difference + reach, difference, `${signed(difference)}, 95 % interval ${interval}`);
  const better = difference > 0 ? 0 : 1;
  const apart = found.apart ? make("strong", {}, data.models[[found.first, found.second][better][0]].name) : make("span", { class: "none" }, "no");
  return make("tr", {}, task, make("td", {}, table.track), make("td", {}, table.metric),
    make("td", { class: "number" }, decimal(found.first[1])), make("td", { class: "number" }, decimal(found.second[1])),
    make("td", { class: "number score" }, signed(difference), make("small", {}, interval)),
    make("td", { class: "chart" }, chart), make("td", {}, apart));
}

function update() {
  const [a, b] = [choice.a.selectedIndex, choice.b.selectedIndex];
  const name = (index) => `${data.models[index].org}/${data.models[index].name}`;
  const found = differences(a, b);
  const ends = found.flatMap(({ difference, reach }) => (reach === null ? [] : [difference - reach, difference + reach]));
  const axis = axisOver([0, ...ends]);
  document.getElementById("name-a").textContent = data.models[a].name;
  document.getElementById("name-b").textContent = data.models[b].name;
  document.getElementById("difference-axis").replaceChildren(make("span", { class: "hidden" }, "95 % interval"), drawAxis(axis));
  document.getElementById("compare-caption").textContent = `${name(a)} minus ${name(b)}`;
  document.getElementById("differences").replaceChildren(...found.map((one) => row(one, axis)));
  document.getElementById("region").hidden = !found.length;
  const apart = found.filter((one) => one.apart).length;
  status.textContent = found.length ? `${found.length} ${found.length === 1 ? "result" : "results"} in common, told apart on ${apart}` : "These two have no ranked result in common.";
  setAddress({ a: name(a), b: name(b) });
}

// The model that shares most results with another one.
function nearest(a) {
  const shared = data.models.map((_, b) => (a === b ? -1 : differences(a, b).length));
  return shared.indexOf(Math.max(...shared));
}

function restore() {
  const names = data.models.map((model) => `${model.org}/${model.name}`), view = viewOfAddress();
  const a = Math.max(0, names.indexOf(view.get("a"))), b = names.indexOf(view.get("b"));
  choice.a.selectedIndex = a;
  choice.b.selectedIndex = b >= 0 ? b : nearest(a);
}

if (data) {
  for (const select of Object.values(choice)) {
    select.append(...data.models.map((model) => make("option", {}, `${model.name} (${model.org})`)));
    select.addEventListener("change", update);
  }
  document.getElementById("swap").addEventListener("click", () => {
    const first = choice.a.selectedIndex;
    choice.a.selectedIndex = choice.b.selectedIndex;
    choice.b.selectedIndex = first;
    update();
  });
  document.getElementById("choice").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { restore(); update(); });
  document.getElementById("choice").hidden = false;
  restore();
  update();
}
