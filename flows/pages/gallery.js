
"use strict";
const form = document.getElementById("filter");
const boxes = [...form.querySelectorAll("input")];
const NAMES = ["kind", "status"];
function chosen(name) {
  return boxes.filter((box) => box.name === name && box.checked).map((box) => box.value);
}
function show() {
  const kinds = new Set(chosen("kind"));
  const statuses = new Set(chosen("status"));
  const filtered = boxes.some((box) => !box.checked);
  let shown = 0;
  let all = 0;
  for (const section of document.querySelectorAll("section")) {
    let some = false;
    for (const card of section.querySelectorAll("article:not(.original)")) {
      card.hidden = !(kinds.has(card.dataset.kind) && statuses.has(card.dataset.status));
      all += 1;
      shown += card.hidden ? 0 : 1;
      some ||= !card.hidden;
    }
    // With every box checked, problems without variants are shown too.
    section.hidden = filtered && !some;
  }
  document.getElementById("count").textContent = `${shown} of ${all} variants`;
}
// The choice is part of the address, so that a link shows the same: #kind=image,composite&status=accepted
const wanted = new URLSearchParams(location.hash.slice(1));
for (const box of boxes) {
  box.checked = !wanted.has(box.name) || wanted.get(box.name).split(",").includes(box.value);
}
form.addEventListener("change", () => {
  const parts = NAMES.filter((name) => boxes.some((box) => box.name === name && !box.checked));
  history.replaceState(null, "", "#" + parts.map((name) => `${name}=${chosen(name).join(",")}`).join("&"));
  show();
});
show();
