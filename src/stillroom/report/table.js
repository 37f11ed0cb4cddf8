"use strict";
(() => {
  const fold = text => text.normalize("NFKC").toLowerCase();
  const find = document.getElementById("find-name"), shown = document.getElementById("rows-shown");
  const boxes = [...document.querySelectorAll(".vocabulary")];
  const buttons = [...document.querySelectorAll("#kinds button")];
  const rows = new Map(boxes.map(box => [box, [...box.querySelectorAll("tbody tr")].map(node => ({
    node,
    name: fold([...node.cells[0].querySelectorAll("b, span")].map(part => part.textContent).join(" ")),
    values: [...node.cells].map(cell => cell.textContent.trim() ? Number(cell.textContent.replace(/[,%]/g, "")) : -1),
  }))]));
  let kind = buttons[0]?.dataset.kind;

  function show() {
    const words = fold(find.value).split(/\s+/).filter(Boolean);
    for (const box of boxes) {
      box.hidden = box.dataset.kind !== kind;
      let count = 0;
      for (const row of rows.get(box)) {
        row.node.hidden = !words.every(word => row.name.includes(word));
        count += !row.node.hidden;
      }
      if (!box.hidden) shown.textContent = `${count} of ${rows.get(box).length} rows shown`;
    }
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.kind === kind);
  }

  function sort(box, head) {
    const column = head.cellIndex, before = head.getAttribute("aria-sort");
    const down = column ? before !== "descending" : before === "ascending";
    for (const other of box.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const side = down ? -1 : 1;
    const sorted = [...rows.get(box)].sort((a, b) => {
      if (!column) return side * (a.name < b.name ? -1 : Number(a.name > b.name));
      const [x, y] = [a.values[column], b.values[column]];
      if (x < 0 || y < 0) return (x < 0) - (y < 0); // what was not measured comes last
      return side * (x - y);
    });
    box.querySelector("tbody").append(...sorted.map(row => row.node));
    box.scrollTop = 0;
  }

  for (const button of buttons)
    button.addEventListener("click", () => { kind = button.dataset.kind; show(); });
  for (const box of boxes)
    for (const head of box.querySelectorAll("th")) head.querySelector("button")?.addEventListener("click", () => sort(box, head));
  find?.addEventListener("input", show);
  if (find) show();
})();
