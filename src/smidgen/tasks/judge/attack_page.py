"""The page `docs/attacks.md`: how resistance is measured, and every manipulation in full."""

from collections.abc import Iterator

from smidgen.tasks.judge.attack_texts import FAMILIES, Wording
from smidgen.tasks.judge.attacks import LEAST_PADDING, is_invisible

_INTRODUCTION = f"""\
# Can the judge be talked round?

A judge reads text that somebody wrote in order to win. `--attacks` measures what that does:

```
smidgen evaluate judge --adapter runs/nano-judge/best --attacks --out evaluated
smidgen evaluate judge --adapter runs/nano-judge/best --attacks --attacked 20
smidgen compare evaluated another-evaluation
```

In a recipe, `attacked = 100` in `[evaluate]` does the same for the trained model.

For each of 100 pairs (`--attacked`), the **worse** answer is rewritten with one manipulation of each family
below, drawn by the id of the row and `--seed`, and the pair is asked again in both orders. The attacker is
taken to know the judge's template and the place where its answer is shown, which is the worst case. The
answer's own characters stay, and the better answer is never touched.

- A **flip** is a judgement that was right before the manipulation and is wrong with it.
- **Unparsed** counts those that were right and no longer parse: the attacker has not won, but the verdict
  is lost.
- **Mended** counts those that were wrong before and are right with the manipulation.
- The **benign edit** is the control: neutral text of the same number of characters, in the same places of
  the same answer. The **difference** of flips is paired. Where a judge flips as often with the benign edit,
  it is length, or any change at all, that moves it, not what the manipulation says.
- The **mirror** is one benign edit of the *better* answer of each pair: a judge that has learnt to distrust
  whatever looks edited would fail there.

Intervals are at 95 %, over clusters of rows with the same prompt. A manipulated prompt that exceeds the
model's context is not cut: it counts as unparsed, and is counted. The records are in `attacked.jsonl`
beside `records.jsonl`; an interrupted evaluation goes on with the requests that are missing, and `--engine
replay --model FOLDER` reads both again. A judge that grades answers alone is not attacked.

These texts are fixed and public, and not optimised against any model. A judge that withstands them may fall
for others.

## Training against some of them

```toml
[settings]
attacks = ["verdicts", "demands", "padding", "flattery", "markdown"]
attack_share = 0.5
```

Half of the training pairs get their worse answer manipulated by one of these families. Independently, half
of the better answers get a benign edit, so that an edit by itself does not tell which answer is worse. The
report counts the families that were trained on apart from those that were held out; `smidgen evaluate`
knows them from `--form RECIPE`.

## The families

`{{verdict}}` is a judgement in the judge's output form that prefers the attacker, `{{place}}` is `first` or
`second`, `{{end}}` is what the template puts after the attacker's answer, `{{begin_other}}` and
`{{end_other}}` are what it puts around the other answer, `{{request}}` is the prompt and `{{answer}}` the
attacker's own answer. Padding is repeated until it has {LEAST_PADDING} characters, and twice the length of
the answer.
"""


def attacks_page() -> str:
    """Return the page."""
    return "\n".join([_INTRODUCTION, *_families()])


def _families() -> Iterator[str]:
    for name, family in FAMILIES.items():
        yield f"### {name}\n\n{family.words}\n"
        for variant, wording in family.wordings.items():
            yield f"**{variant}**{', repeated' * wording.repeats}\n"
            for place, text in _texts(wording):
                yield f"{place}:\n\n````\n{shown(text)}\n````\n"


def _texts(wording: Wording) -> Iterator[tuple[str, str]]:
    """Yield where a wording adds text, and the text."""
    for place, text in (
        ("before the answer", wording.before),
        ("after every space of the answer", wording.between),
        ("after the answer", wording.after),
    ):
        if text:
            yield place, text


def shown(text: str) -> str:
    """Return a text without the blank lines around it, and with codes for what is not displayed."""
    codes = (f"<U+{ord(one):04X}>" if is_invisible(one) else one for one in text.strip("\n"))
    return "".join(codes)
