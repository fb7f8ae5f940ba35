// Sorting, searching and hiding controls in tables that stand whole in the page.

const status = document.getElementById("status");
const names = new Intl.Collator("en", { numeric: true }); // made once: localeCompare makes one for every pair

function compare(a, b, numeric) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what has no value stays last in both directions
  return numeric ? Number(a) - Number(b) : names.compare(a, b);
}

function sortRows(body, column, numeric, sign) {
  const key = (row) => row.cells[column].dataset.value ?? "";
  const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
  rows.sort((one, two) => {
    const a = key(one), b = key(two);
    return compare(a, b, numeric) * (a === "" || b === "" ? 1 : sign);
  });
  body.append(...rows);
}

function sortBy(header) {
  const table = header.closest("table");
  const numeric = header.dataset.sort === "number";
  // Scores read best from the top, names and ranks from the start.
  const first = numeric && !header.classList.contains("rank") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  for (const body of table.tBodies) sortRows(body, header.cellIndex, numeric, order === "ascending" ? 1 : -1);
  status.textContent = `Sorted by ${header.innerText.trim()}, ${order}`;
}

for (const header of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sortBy(header));
  header.append(button);
}

const tables = [...document.querySelectorAll(".ranking")].map((element) => ({
  element,
  name: element.dataset.search.toLowerCase(),
  rows: [...element.querySelectorAll("tbody tr:not(.group)")].map((row) => ({
    row,
    text: [...row.querySelectorAll("th, [title]")].map((cell) => `${cell.textContent} ${cell.title}`).join(" ").toLowerCase(),
  })),
}));

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, name, rows } of tables) {
    let here = 0;
    for (const { row, text: content } of rows) {
      row.hidden = !words.every((word) => content.includes(word) || name.includes(word));
      here += !row.hidden;
    }
    element.hidden = here === 0;
    shown += here;
  }
  status.textContent = words.length ? `${shown} ${shown === 1 ? "row" : "rows"} found` : "";
}

const box = document.getElementById("search");
box.addEventListener("input", () => search(box.value));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target.tagName !== "INPUT") {
    event.preventDefault();
    box.focus();
  }
});

document.getElementById("controls").addEventListener("change", (event) => {
  for (const body of document.querySelectorAll("tbody.controls")) body.hidden = !event.target.checked;
});

document.querySelector(".tools").hidden = false;
