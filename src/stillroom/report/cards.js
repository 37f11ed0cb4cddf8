"use strict";
(() => {
  const fold = text => text.normalize("NFKC").toLowerCase();
  const byId = id => document.getElementById(id);
  const root = byId("cards"), find = byId("find"), order = byId("order"), shown = byId("shown");
  const buttons = [...document.querySelectorAll("#tags button")];
  const cards = [...root.querySelectorAll(".card")].map(node => ({
    node,
    reasons: node.dataset.reasons.split(" "),
    words: fold([...node.querySelectorAll(".find")].map(part => part.textContent).join("\n")),
  }));
  const groups = [...root.querySelectorAll(".group")];
  let tag = "";

  function show() {
    const words = fold(find.value).split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const there = (!tag || card.reasons.includes(tag)) && words.every(word => card.words.includes(word));
      card.node.hidden = !there;
      count += there;
    }
    for (const group of groups) {
      group.hidden = !group.querySelector(".card:not([hidden])");
      group.classList.toggle("first", group.dataset.tag === tag);
    }
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.tag === tag);
    if (shown) shown.textContent = `${count} of ${cards.length} ${root.dataset.noun || "samples"} shown`;
  }

  function sort() {
    if (!order) return;
    const value = card => (card.node.dataset[order.value] ?? "") === "" ? -1 : Number(card.node.dataset[order.value]);
    const sorted = order.value ? [...cards].sort((a, b) => value(b) - value(a)) : cards;
    const places = new Map(cards.map(card => [card.node, card.node.parentNode]));
    for (const card of sorted) places.get(card.node).append(card.node);
  }

  function store() {
    const state = new URLSearchParams();
    if (tag) state.set("reason", tag);
    if (find.value) state.set("find", find.value);
    if (order?.value) state.set("order", order.value);
    history.replaceState(null, "", "#" + (state.toString() || root.dataset.home || "samples"));
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!["reason", "find", "order"].some(name => state.has(name))) return;
    tag = buttons.some(button => button.dataset.tag === state.get("reason")) ? state.get("reason") : "";
    find.value = state.get("find") ?? "";
    if (order) order.value = [...order.options].some(o => o.value === state.get("order")) ? state.get("order") : "";
    root.scrollIntoView();
  }

  function changed() {
    show();
    store();
  }

  find.addEventListener("input", changed);
  order?.addEventListener("change", () => { sort(); store(); });
  for (const button of buttons)
    button.addEventListener("click", () => { tag = button.dataset.tag; changed(); });
  addEventListener("hashchange", () => { restore(); sort(); show(); });
  restore();
  sort();
  show();
})();
