"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);
const MOST_ITEMS = 400; // rows of the items' table: more is no reading

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// The first number of a cell, so that "0.596 +- 0.031" sorts by 0.596; cells without one come last either way.
function number(text) {
  const found = /^[+-]?[\d,]*\.?\d+/.exec(text);
  return found ? parseFloat(found[0].replaceAll(",", "")) : NaN;
}

function compare(a, b, descending) {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  const order = Number.isNaN(x) ? a.localeCompare(b) : x - y;
  return descending ? -order : order;
}

// --- the comparison ---------------------------------------------------------------------------------------------
const rows = content.table.lines.map((cells, place) => ({ cells, place, reason: content.table.reasons[place] }));
let sorted = { column: -1, descending: false };

function header(table, titles, onSort, words = onSort ? 1 : titles.length) {
  const line = element("tr");
  titles.forEach((title, column) => {
    const cell = element("th", undefined, (onSort ? column === words : column >= words) ? "words" : "");
    cell.scope = "col";
    if (!onSort) cell.append(element("button", title));
    else {
      const button = element("button", title);
      button.type = "button";
      button.addEventListener("click", () => onSort(column));
      cell.append(button);
    }
    line.append(cell);
  });
  table.tHead.replaceChildren(line);
}

function sortBy(column) {
  sorted = { column, descending: sorted.column === column && !sorted.descending };
  show();
}

function matches(row) {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [...row.cells.slice(0, 2), row.reason].join(" ").toLowerCase();
  const status = find("status").value;
  return words.every((word) => text.includes(word)) && (!status || row.cells[1] === status);
}

function show() {
  const kept = rows.filter(matches);
  if (sorted.column >= 0)
    kept.sort((a, b) => compare(a.cells[sorted.column], b.cells[sorted.column], sorted.descending) || a.place - b.place);
  const body = kept.map((row) => {
    const line = element("tr");
    row.cells.forEach((cell, column) => line.append(element("td", cell, column === 1 ? (cell === "ok" ? "words" : "words bad") : "")));
    if (row.reason) line.children[1].append(`: ${row.reason}`);
    return line;
  });
  const table = find("comparison");
  table.tBodies[0].replaceChildren(...body);
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (column === sorted.column) cell.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  find("count").textContent = `${kept.length} of ${rows.length} rows`;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => Object.assign(element("option", text), { value })));
}

header(find("comparison"), content.table.header, sortBy);
options(find("status"), [["", "all"], ...[...new Set(rows.map((row) => row.cells[1]))].map((one) => [one, one])]);
find("filter").addEventListener("input", show);
find("status").addEventListener("change", show);
show();

// --- the charts -------------------------------------------------------------------------------------------------
// `ast`: expressions are interpreted, not compiled, so the page needs no right to turn text into code.
for (const name of ["frontier", "curves"]) {
  if (!content[name]) continue;
  find(`${name}-section`).hidden = false;
  const settings = { mode: "vega-lite", renderer: "svg", ast: true, actions: false };
  // Of some pairs of axes a layer has no point, such as base on those of training: no more than that is worth a warning.
  if (name === "frontier") Object.assign(settings, { bind: "#axes", logLevel: 1 });
  vegaEmbed(`#${name}`, content[name], settings).then(({ view }) => (window[name] = view), console.error);
}

// --- the items --------------------------------------------------------------------------------------------------
function chooseTask() {
  const task = content.tasks[find("task").value];
  const names = Object.keys(task.groups).map((one) => [one, one]);
  const kept = [find("first").value, find("second").value];
  [find("first"), find("second")].forEach((select, index) => {
    options(select, names);
    const wanted = names.findIndex(([name]) => name === kept[index]);
    select.selectedIndex = wanted >= 0 ? wanted : Math.min(index, names.length - 1);
  });
  showItems();
}

function tally(task, a, b) {
  const binary = [...a, ...b].every((value) => value === 0 || value === 1);
  const differ = a.filter((value, item) => value !== b[item]).length;
  if (!binary) return `${differ} of ${a.length} items differ; the largest differences first.`;
  const count = (x, y) => a.filter((value, item) => value === x && b[item] === y).length;
  return `${a.length} items: both right ${count(1, 1)}, only A right ${count(1, 0)}, only B right ${count(0, 1)}, both wrong ${count(0, 0)}.`;
}

function showItems() {
  const task = content.tasks[find("task").value];
  const [first, second] = [find("first").value, find("second").value];
  const [a, b] = [task.groups[first], task.groups[second]];
  const differing = task.items.map((_, item) => item).filter((item) => a[item] !== b[item]);
  differing.sort((x, y) => Math.abs(a[y] - b[y]) - Math.abs(a[x] - b[x]) || x - y);
  const columns = ["question", "target", `answer of ${first}`, `answer of ${second}`].filter((name) => task.texts[name]);
  header(find("items"), ["Item", `A: ${first}`, `B: ${second}`, ...columns], undefined, 3);
  const body = differing.slice(0, MOST_ITEMS).map((item) => {
    const line = element("tr");
    const aWins = task.higher ? a[item] > b[item] : a[item] < b[item];
    line.append(element("td", task.items[item]), element("td", String(a[item]), aWins ? "better" : ""));
    line.append(element("td", String(b[item]), aWins ? "" : "better"));
    for (const name of columns) line.append(element("td", task.texts[name][item] ?? "", "words"));
    return line;
  });
  find("items").tBodies[0].replaceChildren(...body);
  const more = differing.length > MOST_ITEMS ? ` The first ${MOST_ITEMS} are shown.` : "";
  const rest = task.left_out ? ` ${task.left_out} methods with lower scores are not in this page.` : "";
  find("tally").textContent = tally(task, a, b) + more + rest;
}

if (content.tasks.length) {
  find("items-section").hidden = false;
  options(find("task"), content.tasks.map((task, place) => [place, task.title]));
  find("task").addEventListener("change", chooseTask);
  for (const id of ["first", "second"]) find(id).addEventListener("change", showItems);
  chooseTask();
}

find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
