"use strict";
document.documentElement.classList.add("js");
const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab, focus) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).classList.toggle("hidden", !chosen);
  }
  if (focus) tab.focus();
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    show(tab);
    history.replaceState(null, "", "#" + tab.getAttribute("aria-controls"));
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(tabs[(place + step + tabs.length) % tabs.length], true);
  });
}
if (tabs.length) show(tabs.find((tab) => "#" + tab.getAttribute("aria-controls") === location.hash) || tabs[0]);

function key(row, column) {
  const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
  const number = parseFloat(text.replace(/[,−]/g, (c) => (c === "," ? "" : "-")));
  return { text, number: /^[<+−-]?[\d.]/.test(text) ? number : NaN };
}

function compare(one, other) {
  const known = [!Number.isNaN(one.number), !Number.isNaN(other.number)];
  if (known[0] && known[1]) return one.number - other.number;
  if (known[0] !== known[1]) return known[0] ? -1 : 1;
  return one.text.localeCompare(other.text);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const sort = (head, column) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    const keys = new Map(rows.map((row) => [row, key(row, column)]));
    rows.sort((a, b) => (descending ? -1 : 1) * compare(keys.get(a), keys.get(b)));
    table.tBodies[0].append(...rows);
  };
  for (const [column, head] of heads.entries()) {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head, column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort(head, column);
      }
    });
  }
}

for (const field of document.querySelectorAll("input[type=search]")) {
  const items = [...field.closest("section").querySelectorAll(".filtered tbody tr, .filtered .tile")];
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  });
}
