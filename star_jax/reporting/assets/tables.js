"use strict";

// A click on a column's head sorts a table: ascending, descending, original order.

function sortableTables() {
  for (const table of document.querySelectorAll("div.table > table")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 3) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = "Sort by this column";
      button.addEventListener("click", () => sortTable(table, rows, column));
      head.replaceChildren(button);
    });
  }
}

// Tables that are wider than the page can be scrolled with the keyboard.
function scrollableTables() {
  for (const box of document.querySelectorAll("div.table")) {
    if (box.scrollWidth <= box.clientWidth) continue;
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    const title = box.querySelector("caption") ?? box.closest("section").querySelector("h2");
    box.setAttribute("aria-label", title.textContent);
  }
}

function sortTable(table, rows, column) {
  const heads = [...table.tHead.rows[0].cells];
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const direction = next[heads[column].getAttribute("aria-sort") ?? "none"];
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  const sorted = [...rows];
  if (direction !== "none") {
    heads[column].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    sorted.sort((a, b) => compareCells(a.cells[column], b.cells[column], sign));
  }
  table.tBodies[0].replaceChildren(...sorted);
}

// Numbers by value, texts in natural order; absent cells are last in both directions.
function compareCells(a, b, sign) {
  const absent = a.classList.contains("absent") - b.classList.contains("absent");
  if (absent) return absent;
  const [x, y] = [a, b].map((cell) => cellNumber(cell.textContent));
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

function cellNumber(text) {
  return parseFloat(text.trim().replace(/[\u2212]/g, "-").replace(/,/g, ""));
}
