"""Every symptom that the doctor knows, one file each; the list is explicit, and its order is that of the codes."""

from fieldguide.doctor.finding import Rule
from fieldguide.doctor.rules import m08_parameter_not_in_optimizer, p05_scheduler_collapse

RULES: tuple[Rule, ...] = (
    m08_parameter_not_in_optimizer.RULE,
    p05_scheduler_collapse.RULE,
)
