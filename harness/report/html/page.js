"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);
const MOST_ITEMS = 100; // items that are shown at once; a button shows as many again
const PRINTED = 11; // columns that a sheet of paper holds

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => Object.assign(element("option", text), { value })));
}

function setLink(values) {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(values)) value ? kept.set(name, value) : kept.delete(name);
  history.replaceState(null, "", `#${kept}`);
}

// --- the filter: words and comparisons of any column, joined by and, or, not and parentheses -------------------------
const TOKEN = /\s*(>=|<=|!=|==|=|<|>|~|\(|\)|"[^"]*"|[^\s()<>=!~"]+)/y;
const ORDERS = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};

function tokens(text) {
  const list = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const match = TOKEN.exec(text);
    if (!match) throw new Error(`cannot read the filter from "${text.slice(list.length ? list.at(-1).end : 0)}"`);
    const quoted = match[1].startsWith('"');
    list.push({ text: quoted ? match[1].slice(1, -1) : match[1], quoted, end: TOKEN.lastIndex });
  }
  return list;
}

// The place of a fact by its name in records.csv, or by the end of that name where only one has it.
function factOf(name) {
  const names = content.table.facts.map((one) => one.toLowerCase());
  const exact = names.indexOf(name.toLowerCase());
  if (exact >= 0) return exact;
  const ends = names.flatMap((one, place) => (/[./]/.test(one) && one.split(/[./]/).at(-1) === name.toLowerCase() ? [place] : []));
  if (ends.length === 1) return ends[0];
  const near = ends.length ? ends : names.flatMap((one, place) => (one.includes(name.toLowerCase()) ? [place] : []));
  const shown = near.slice(0, 6).map((place) => content.table.facts[place]).join(", ");
  throw new Error(`${ends.length ? "several columns are" : "no column is"} called "${name}"${shown ? `: ${shown}` : ""}`);
}

function holds(row, place, sign, wanted) {
  const value = row.facts[place];
  if (value === null || value === undefined) return sign === "!=" && wanted !== "none" || (sign === "=" || sign === "==") && wanted === "none";
  if (sign === "~") return String(value).toLowerCase().includes(wanted.toLowerCase());
  const numbers = [Number(value), Number(wanted)];
  if (wanted !== "" && !numbers.some(Number.isNaN)) return ORDERS[sign](...numbers);
  return ORDERS[sign](String(value).toLowerCase(), wanted.toLowerCase());
}

function parsed(text) {
  const list = tokens(text);
  let place = 0;
  const next = () => list[place];
  const is = (word) => next() && !next().quoted && next().text.toLowerCase() === word;
  function either() {
    let test = both();
    while (is("or")) { place++; const [a, b] = [test, both()]; test = (row) => a(row) || b(row); }
    return test;
  }
  function both() {
    let test = single();
    while (next() && !is("or") && !is(")")) { if (is("and")) place++; const [a, b] = [test, single()]; test = (row) => a(row) && b(row); }
    return test;
  }
  function single() {
    if (!next()) throw new Error("the filter ends where a word or a comparison is expected");
    if (is("not")) { place++; const test = single(); return (row) => !test(row); }
    if (is("(")) {
      place++;
      const test = either();
      if (!is(")")) throw new Error("a parenthesis is not closed");
      place++;
      return test;
    }
    const word = list[place++];
    if (!word.quoted && (word.text in ORDERS || word.text === "~" || word.text === ")")) throw new Error(`"${word.text}" stands where a word is expected`);
    if (next() && !next().quoted && (next().text in ORDERS || next().text === "~")) {
      const sign = list[place++].text;
      if (!next()) throw new Error(`a value is missing after "${sign}"`);
      const [fact, wanted] = [factOf(word.text), list[place++].text];
      return (row) => holds(row, fact, sign, wanted);
    }
    return (row) => row.words.toLowerCase().includes(word.text.toLowerCase());
  }
  if (!list.length) return () => true;
  const test = either();
  if (next()) throw new Error(`"${next().text}" is left over`);
  return test;
}

// --- the results ------------------------------------------------------------------------------------------------------
const columns = content.table.columns.map((column, place) => ({ ...column, place, shown: true }));
const rows = content.table.rows.map((row, place) => ({ ...row, place, open: false }));
let sorted = { column: content.table.sort, descending: content.table.sort >= 0 && columns[content.table.sort].better === "higher" };
let test = () => true;
let visible = rows;

function compare(a, b, { column, descending }) {
  const [x, y] = [a.cells[column], b.cells[column]];
  if (!columns[column].text) {
    if ((x[1] === null) !== (y[1] === null)) return x[1] === null ? 1 : -1; // unknown comes last either way
    return x[1] === null ? 0 : (descending ? y[1] - x[1] : x[1] - y[1]);
  }
  const order = x[0].localeCompare(y[0], undefined, { numeric: true });
  return descending ? -order : order;
}

// The first click shows the best first: the highest score, the lowest cost; the second click turns the order.
function sortBy(column) {
  const best = columns[column].better === "higher" || (columns[column].numbers && !columns[column].better);
  sorted = { column, descending: sorted.column === column ? !sorted.descending : best };
  show();
}

function headers() {
  const line = element("tr");
  for (const column of columns.filter((one) => one.shown)) {
    const cell = element("th", undefined, [column.place >= PRINTED ? "extra" : "", column.text ? "words" : ""].join(" ").trim());
    cell.scope = "col";
    const button = element("button", column.title.replaceAll("-", "\u2011")); // no line ends inside a name
    button.type = "button";
    button.addEventListener("click", () => { sortBy(column.place); find("comparison").querySelectorAll("thead button")[columns.filter((one) => one.shown).indexOf(column)].focus(); });
    if (column.place === sorted.column) cell.ariaSort = sorted.descending ? "descending" : "ascending";
    cell.append(button);
    line.append(cell);
  }
  find("comparison").tHead.replaceChildren(line);
}

function settingsOf(row) {
  const line = element("tr", undefined, "settings");
  const cell = element("td");
  cell.colSpan = columns.filter((one) => one.shown).length;
  if (row.reason) cell.append(element("p", `${row.status}: ${row.reason}`, row.status === "failed" ? "bad" : "warn"));
  const list = element("dl");
  for (const [place, name] of content.table.settings) {
    if (row.facts[place] === null || row.facts[place] === undefined) continue;
    const pair = element("div");
    const term = element("dt", name);
    term.title = content.table.facts[place];
    pair.append(term, element("dd", String(row.facts[place])));
    list.append(pair);
  }
  cell.append(!row.base ? list : element("p", "This is the base model as it is: nothing was trained.", "note"));
  line.append(cell);
  return line;
}

function lineOf(row) {
  const line = element("tr", undefined, row.base ? "base" : "");
  for (const column of columns.filter((one) => one.shown)) {
    const [text, value, extra] = row.cells[column.place];
    const kind = [column.place >= PRINTED ? "extra" : "", value !== null ? extra : "dim", column.text && column.place ? "words" : "number"];
    if (column.place) {
      const cell = element("td", text, kind.filter(Boolean).join(" "));
      if (value === null && extra) cell.title = extra;
      line.append(cell);
      continue;
    }
    const cell = element("th");
    cell.scope = "row";
    const button = element("button", text);
    button.type = "button";
    button.ariaExpanded = String(row.open);
    button.addEventListener("click", () => { row.open = !row.open; show(row); });
    cell.append(button);
    if (row.status !== "ok") cell.append(element("span", ` ${row.status}`, row.status === "interrupted" || row.status === "skipped" ? "warn" : "bad"));
    line.append(cell);
  }
  return row.open ? [line, settingsOf(row)] : [line];
}

// `focused`: the row whose button was pressed and keeps the focus.
function show(focused) {
  const status = find("status").value;
  visible = rows.filter((row) => test(row) && (!status || row.status === status));
  if (sorted.column >= 0) visible.sort((a, b) => a.base - b.base || compare(a, b, sorted) || a.place - b.place); // the base apart, last
  headers();
  const lines = visible.map(lineOf);
  find("comparison").tBodies[0].replaceChildren(...lines.flat());
  if (focused) lines[visible.indexOf(focused)]?.[0].querySelector("button").focus();
  find("count").textContent = `${visible.length} of ${rows.length} rows`;
}

function filter() {
  const box = find("filter"), shown = find("filter-error");
  try {
    test = parsed(box.value);
    shown.hidden = true;
    box.removeAttribute("aria-invalid");
  } catch (error) { // the rows stay as they were until the filter can be read
    shown.textContent = error.message;
    shown.hidden = false;
    box.setAttribute("aria-invalid", "true");
    return;
  }
  setLink({ filter: box.value });
  show();
}

function chooser() {
  find("columns").replaceChildren(...columns.slice(1).map((column) => {
    const label = element("label");
    const box = Object.assign(element("input"), { type: "checkbox", checked: column.shown });
    box.addEventListener("change", () => { column.shown = box.checked; show(); });
    label.append(box, ` ${column.title}`);
    return label;
  }));
}

function saveRows() {
  const quoted = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value === "string" && /^\s*[=+\-@]/.test(text)) text = `'${text}`; // no spreadsheet takes it for a formula
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [content.table.facts, ...visible.map((row) => row.facts)].map((line) => line.map(quoted).join(","));
  const link = Object.assign(element("a"), { download: "rows.csv", href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

options(find("status"), [["", "all"], ...[...new Set(rows.map((row) => row.status))].map((one) => [one, one])]);
find("filter-names").replaceChildren(...content.table.facts.map((value) => Object.assign(element("option"), { value })));
find("filter").addEventListener("input", filter);
find("status").addEventListener("change", () => show());
find("export").addEventListener("click", saveRows);
find("filter").value = new URLSearchParams(location.hash.slice(1)).get("filter") ?? "";
chooser();
show();
if (find("filter").value) filter();

// --- the items --------------------------------------------------------------------------------------------------------
const WHICH = { differ: "where A and B differ", first: "only A right", second: "only B right", wrong: "both wrong", agree: "both wrong, same answer", right: "both right", split: "seeds split", all: "all" };
const unpacked = new Map();
let shownItems = MOST_ITEMS, wantedItem = "";

async function unpack(place) {
  if (!unpacked.has(place)) {
    const bytes = Uint8Array.from(atob(content.tasks[place].data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(place, JSON.parse(await new Response(stream).text()));
  }
  return unpacked.get(place);
}

// What a method has on an item: a share of its seeds that are right, or the mean of a number.
function outcome(group, item) {
  return group.right === undefined ? group.values[item] : parseInt(group.right[item], 36) / group.seeds;
}

const majority = (share) => (share > 0.5 ? "right" : share < 0.5 ? "wrong" : "split");

function kindOf(a, b) {
  const [x, y] = [majority(a), majority(b)];
  if (x === "split" || y === "split") return "split";
  return x === y ? x : x === "right" ? "first" : "second";
}

function tally(task, a, b) {
  const number = task.ids.length.toLocaleString("en");
  if (a.right === undefined || b.right === undefined) {
    const differ = task.ids.filter((_, item) => outcome(a, item) !== outcome(b, item)).length;
    return `${number} items, ${differ.toLocaleString("en")} of them differ; the largest differences first.`;
  }
  const counts = { right: 0, first: 0, second: 0, wrong: 0, split: 0 };
  task.ids.forEach((_, item) => counts[kindOf(outcome(a, item), outcome(b, item))]++);
  const seeds = Math.max(a.seeds, b.seeds);
  const split = counts.split ? `, seeds split ${counts.split.toLocaleString("en")}` : "";
  const [right, first, second, wrong] = ["right", "first", "second", "wrong"].map((kind) => counts[kind].toLocaleString("en"));
  return `${number} items${seeds > 1 ? ", by the majority of the seeds" : ""}: both right ${right}, only A right ${first}, only B right ${second}, both wrong ${wrong}${split}.`;
}

function isWanted(which, task, places, item) {
  const [a, b] = places.map((place) => task.groups[place]);
  const [x, y] = [outcome(a, item), outcome(b, item)];
  if (which === "all") return true;
  if (which === "differ") return x !== y;
  if (which === "agree") {
    const [first, second] = places.map((place) => answersOf(task, place, item)[0]?.[0]);
    return kindOf(x, y) === "wrong" && first !== undefined && first === second;
  }
  return a.right !== undefined && b.right !== undefined && kindOf(x, y) === which;
}

function textOf(task, item) {
  return [task.ids[item], task.question?.[item], task.target?.[item], ...(task.choices?.[item] || []), ...(task.answers?.[item] || [])].join("\n").toLowerCase();
}

// Each different answer of a method with the number of its seeds that gave it.
function answersOf(task, place, item) {
  const counts = new Map();
  for (const seed of task.picks?.[place] ?? []) {
    const answer = task.answers?.[item]?.[parseInt(seed[item], 36)];
    if (answer !== undefined) counts.set(answer, (counts.get(answer) ?? 0) + 1);
  }
  return [...counts].sort((x, y) => y[1] - x[1]);
}

function answerCell(task, place, item, title) {
  const group = task.groups[place], cell = element("td");
  cell.dataset.title = title;
  const share = outcome(group, item);
  if (group.right === undefined) cell.append(element("span", share.toPrecision(4), "verdict"));
  else {
    const right = Math.round(share * group.seeds);
    const text = group.seeds > 1 ? `right in ${right} of ${group.seeds} seeds` : right ? "right" : "wrong";
    cell.append(element("span", `${share > 0.5 ? "\u2713" : share < 0.5 ? "\u2717" : "\u2248"} ${text}`, `verdict ${share > 0.5 ? "good" : "bad"}`));
  }
  for (const [answer, count] of answersOf(task, place, item))
    cell.append(element("div", group.seeds > 1 && count < group.seeds ? `${answer} (${count} of ${group.seeds})` : answer, "text"));
  return cell;
}

function questionCell(task, item) {
  const cell = element("td");
  const question = task.question?.[item], target = task.target?.[item], choices = task.choices?.[item] || [];
  if (question) cell.append(element("div", question, "text"));
  if (choices.length) {
    const list = element("ol");
    for (const choice of choices) list.append(element("li", `${choice === target ? "\u2713" : "\u2007"} ${choice}`, choice === target ? "good" : ""));
    cell.append(list);
  } else if (target) cell.append(element("div", `Answer: ${target}`, "text good"));
  if (!question && !target) cell.append(element("span", "no text recorded", "dim"));
  return cell;
}

async function copyLink(task, id) {
  setLink({ ...state(), item: id });
  try {
    await navigator.clipboard.writeText(location.href);
    find("copied").textContent = `The link to item ${id} was copied.`;
  } catch {
    find("copied").textContent = `The address of this page is now the link to item ${id}.`;
  }
}

const state = () => ({ task: find("task").selectedOptions[0].text, a: find("first").value, b: find("second").value, which: find("which").value, search: find("search").value });

async function showItems() {
  const task = await unpack(Number(find("task").value));
  const places = [find("first"), find("second")].map((select) => task.groups.findIndex((group) => group.label === select.value));
  const [a, b] = places.map((place) => task.groups[place]);
  const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const which = find("which").value;
  const chosen = task.ids.map((_, item) => item).filter((item) => (wantedItem ? task.ids[item] === wantedItem : isWanted(which, task, places, item)) && words.every((word) => textOf(task, item).includes(word)));
  const gap = (item) => Math.abs(outcome(a, item) - outcome(b, item));
  chosen.sort((x, y) => gap(y) - gap(x) || x - y);
  const line = element("tr");
  for (const title of ["Item", "Question and choices", `A: ${a.name}`, `B: ${b.name}`]) line.append(Object.assign(element("th", title, "words"), { scope: "col" }));
  find("items").tHead.replaceChildren(line);
  find("items").tBodies[0].replaceChildren(...chosen.slice(0, shownItems).map((item) => {
    const made = element("tr"), name = element("th"), link = element("button", task.ids[item]);
    name.scope = "row";
    link.type = "button";
    link.title = "Copy a link to this item";
    link.ariaLabel = `Copy a link to item ${task.ids[item]}`;
    link.addEventListener("click", () => copyLink(task, task.ids[item]));
    name.append(link);
    made.append(name, questionCell(task, item), answerCell(task, places[0], item, `A: ${a.name}`), answerCell(task, places[1], item, `B: ${b.name}`));
    return made;
  }));
  const left = task.left_out ? ` ${task.left_out} methods with lower scores are not in this page.` : "";
  const listed = ` ${chosen.length.toLocaleString("en")} are listed${chosen.length > shownItems ? `, the first ${shownItems} are shown` : ""}.`;
  find("tally").textContent = tally(task, a, b) + listed + left;
  find("more").hidden = chosen.length <= shownItems;
}

async function chooseTask() {
  const task = await unpack(Number(find("task").value));
  const names = task.groups.map((group) => [group.label, group.name]);
  const kept = [find("first").value, find("second").value];
  const best = task.groups.map((group, place) => [task.ids.reduce((sum, _, item) => sum + outcome(group, item), 0) * (task.higher ? -1 : 1), place]).sort((x, y) => x[0] - y[0]).map((one) => one[1]);
  const differs = (place) => task.ids.some((_, item) => outcome(task.groups[best[0]], item) !== outcome(task.groups[place], item));
  const pair = [best[0], best.slice(1).find(differs) ?? best[1]]; // the best method, and the next that differs from it on an item
  [find("first"), find("second")].forEach((select, index) => {
    options(select, names);
    const wanted = names.findIndex(([name]) => name === kept[index]);
    select.selectedIndex = wanted >= 0 ? wanted : pair[index]; // until others are chosen
  });
  const binary = task.groups.every((group) => group.right !== undefined);
  const before = find("which").value;
  options(find("which"), Object.entries(WHICH).filter(([kind]) => (kind === "agree" ? binary && task.picks : kind === "split" ? binary && task.groups.some((group) => group.seeds > 1) : binary || kind === "differ" || kind === "all")));
  if ([...find("which").options].some((one) => one.value === before)) find("which").value = before;
  await showItems();
}

function again() {
  [shownItems, wantedItem] = [MOST_ITEMS, ""];
  setLink({ item: "" });
  showItems();
}

async function openItems() {
  find("items-section").hidden = false;
  options(find("task"), content.tasks.map((task, place) => [place, task.title]));
  const link = new URLSearchParams(location.hash.slice(1));
  const place = content.tasks.findIndex((task) => task.title === link.get("task"));
  if (place >= 0) find("task").value = place;
  await chooseTask();
  for (const [id, name] of [["first", "a"], ["second", "b"], ["which", "which"]])
    if ([...find(id).options].some((one) => one.value === link.get(name))) find(id).value = link.get(name);
  find("search").value = link.get("search") ?? "";
  wantedItem = link.get("item") ?? "";
  await showItems();
  if (wantedItem) find("items-section").scrollIntoView();
  find("task").addEventListener("change", () => { [shownItems, wantedItem] = [MOST_ITEMS, ""]; chooseTask(); });
  for (const id of ["first", "second", "which"]) find(id).addEventListener("change", again);
  find("search").addEventListener("input", again);
  find("more").addEventListener("click", () => { shownItems += MOST_ITEMS; showItems(); });
}

window.ready = content.tasks.length ? openItems() : Promise.resolve();

// --- the figures --------------------------------------------------------------------------------------------------------
// A mark's name is shown when the mouse is over it, and when the keyboard reaches it.
const tip = element("div", "");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
function nameMark(event) {
  const mark = event.type === "focusout" ? null : event.target.closest?.("figure .mark");
  tip.hidden = !mark;
  if (!mark) return;
  const box = mark.getBoundingClientRect();
  tip.textContent = mark.getAttribute("aria-label");
  const left = Math.min(box.x + box.width / 2, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${box.y + scrollY - tip.offsetHeight - 6}px`;
}
for (const name of ["mouseover", "focusin", "focusout"]) document.addEventListener(name, nameMark);

// --- the whole page -----------------------------------------------------------------------------------------------------
find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("main details:not(#chooser)").forEach((one) => (one.open = true));
  // Chromium repeats a table's head on every sheet only where it holds no button
  find("comparison").tHead.querySelectorAll("button").forEach((button) => button.replaceWith(button.textContent));
});
addEventListener("afterprint", headers);
