// Two models on the same photograph: the classes that both list, and what differs.
"use strict";

/** Classes of all answers, the most probable first, as rows of each side: {rows, rest, note} in the order of the answers. */
function rowsOf(answers, most) {
  const largest = new Map();
  for (const { probabilities } of answers) {
    for (const [name, value] of probabilities ?? []) largest.set(name, Math.max(value, largest.get(name) ?? 0));
  }
  const names = [...largest.keys()].sort((a, b) => largest.get(b) - largest.get(a));
  const listed = names.slice(0, most), [first] = answers;
  return answers.map(answer => ({
    rest: names.length - listed.length,
    note: answer !== first && first.probabilities && answer.probabilities ? "Differences in percentage points." : "",
    rows: listed.map(name => {
      const probability = answer.probabilities?.get(name) ?? null;
      const before = answer === first ? null : (first.probabilities?.get(name) ?? null);
      return { name, probability, words: before === null || probability === null ? [] : [difference(probability - before)] };
    }),
  }));
}

/** Difference of two probabilities, in percentage points. */
function difference(value) {
  const points = (100 * value).toFixed(1).replace("-", "−");
  return element("span", { className: "difference" }, `${value > 0 ? "+" : ""}${/^−0\.0$/.test(points) ? "0.0" : points}`);
}

/** True where two sides give the same label; null while there are not two answers. */
function agree(sides, item) {
  const labels = sides.map(side => labelOf(side, item));
  return labels.length < 2 || labels.includes(null) ? null : labels[0] === labels[1];
}

function labelOf(side, item) {
  const answer = item.answers.get(side.model.name);
  return answer?.probabilities ? answer.label(side.threshold) : null;
}

/** Sentence on two answers, as elements. */
function comparison(sides, item) {
  const isSame = agree(sides, item);
  if (isSame === null) return [];
  const [first, second] = sides.map(side => ({ name: side.model.name, label: labelOf(side, item), answer: item.answers.get(side.model.name) }));
  const mark = element("b", { className: isSame ? "mark same" : "mark other" }, isSame ? "Agree" : "Differ");
  if (!isSame) return [mark, " ", named(first.name), " says ", label(first), "; ", named(second.name), " says ", label(second), "."];
  const [before, after] = [first, second].map(({ answer }) => answer.probabilities.get(first.label));
  if (before === undefined) return [mark, " Both say ", label(first), "."];
  return [mark, " Both say ", label(first), `: ${percent(before)} and ${percent(after)}.`];
}

const label = one => element("b", { className: "name" }, one.label);
