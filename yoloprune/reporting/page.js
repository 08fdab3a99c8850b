// Sort a table by the column whose heading is pressed, the other way round when it is pressed again.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const key = (row, i) => row.cells[i].textContent.replaceAll(",", "");
  table.querySelectorAll("th").forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const down = head.ariaSort !== "ascending";
    for (const other of table.querySelectorAll("th")) other.ariaSort = null;
    head.ariaSort = down ? "ascending" : "descending";
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a, i), key(b, i)];
      return (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y) * (down ? 1 : -1);
    });
    body.append(...rows);
  }));
}
// Light up what loses the same channels as the layer under the pointer.
const layers = [...document.querySelectorAll(".layer")];
for (const layer of layers) {
  const partners = new Set(layer.dataset.with.split(" "));
  const light = (on) => layers.forEach((o) => o.classList.toggle("lit", on && partners.has(o.dataset.name)));
  layer.addEventListener("pointerenter", () => light(true));
  layer.addEventListener("pointerleave", () => light(false));
}
