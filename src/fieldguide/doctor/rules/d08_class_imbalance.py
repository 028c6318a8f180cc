"""D08 class-imbalance: a rare class is never found.

What it looks for: a class ten times rarer than the most frequent one, whose recall stays below 0.3 while frequent
classes are found.
Why it matters: accuracy looks fine and the class that matters is missed.
Usual causes: rare events taken as they occur, with a loss that counts every sample alike.
Known false alarms: vocabularies, where rare words are rare by nature, are not judged.
Fix: weigh the loss by class or sample rare classes more often; judge by recall or F1.
"""

from fieldguide.doctor.facts import listing, one_label_each
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    counts: dict[str, int] = history.fact("targets", "classes") or {}
    recalls = [record["recalls"] for record in history.evals if "recalls" in record][-3:]
    if not 2 <= len(counts) <= 100 or len(recalls) < (2 if history.end else 3) or not one_label_each(history):
        return None
    most = max(counts.values())
    rare = {name for name, count in counts.items() if count * 10 < most}
    missed = sorted(name for name in rare if all(found.get(name, 1.0) < 0.3 for found in recalls))
    frequent = [recall for name, recall in recalls[-1].items() if name in counts and name not in rare]
    if not missed or not frequent or sum(frequent) / len(frequent) < 0.5:
        return None
    recall = max(recalls[-1][name] for name in missed)
    return Sign(
        f"class {listing(missed)}: at most {max(counts[name] for name in missed)} samples beside {most}, "
        f"recall {recall:.2f} in the last {len(recalls)} evaluations",
        "10 times rarer and recall below 0.3",
    )


RULE = Rule(
    code="D08",
    slug="class-imbalance",
    judge=judge,
    fixes=(
        Fix("Weigh the loss by the inverse class frequency", "class weights"),
        Fix("Draw rare classes more often: WeightedRandomSampler"),
    ),
    refute="With class weights the recall of the rare class stays as it is.",
    **exact("eval", "end"),
)
