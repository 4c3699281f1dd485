"""The verb `plan`: what a sweep would do and take, and why, without doing it."""

from __future__ import annotations

import textwrap
from collections import Counter

from ablab.config import Override
from ablab.console import table
from ablab.driver import plan_study
from ablab.store import Store
from ablab.study import why
from ablab.study.accept import accept_code
from ablab.study.measured import caught_up
from ablab.study.outlook import outlook
from ablab.study.plan import Plan
from ablab.sweep import config_of, expectation, slots_of, store_of


def tell(study: str, asked: list[Override], explain: bool, accept: bool) -> None:
    """Print a study's plan; explain: with the reasons; accept: after results were kept across a code change.

    Raises UserError as `compile` does.
    """
    plan = plan_study(study, asked)
    store = store_of(plan)
    asks, engine = plan.study, config_of(plan)["engine"]
    print(f"{asks.name}: {' '.join(asks.question.split())}")
    print(f"design {asks.design}, seeds {', '.join(map(str, asks.seeds))}")
    decided = "" if asks.command else f"device {engine['device']}, {engine['precision']}, "
    print(f"{decided}{engine['threads']} thread{'s' if engine['threads'] > 1 else ''} a stage: part of every result\n")
    if accept:
        _accept(plan, store)
    published = store.published()
    (headers, rows), lines = outlook(plan, published, expectation(plan, store, published), slots_of(engine))
    print(f"{table(headers, rows)}\n\n{len(plan.stages)} stages in {store.url}")
    print("\n".join(lines))
    for left_out, equal in plan.duplicates:
        print(f"left out: '{left_out.name}', whose configuration is that of '{equal.name}'")
    if not asks.command:
        print("Whether the parts of a variant fit is known once its smoke stage has run: `sweep` runs those first.")
    if plan.unsettled:
        print("Into what micro-batches optim.memory makes the batches is known then too: until then they are whole.")
    if explain:
        _explain(plan, store, published)


def _explain(plan: Plan, store: Store, published: set[str]) -> None:
    reasons = why.why(plan, store, published, caught_up(store, plan, published), _last(plan, store))
    print("" if reasons else "\nnothing would run")
    for count, variants, kinds, against, reason in reasons:
        what = " ".join(word for word in (count, kinds, "stage" if count == "1" else "stages") if word)
        compared = f", compared with the {against}" if against else ""
        print(f"{what} of {variants}{compared}:")
        for part in reason.split("; "):
            print(textwrap.fill(part, 110, initial_indent="    ", subsequent_indent="        "))


def _accept(plan: Plan, store: Store) -> None:
    kept = accept_code(plan, store, store.published(), _last(plan, store))
    refused = Counter(one.refused for one in kept if one.refused)
    modules = sorted({module for one in kept if not one.refused for module in one.modules})
    count = sum(not one.refused for one in kept)
    if not kept:
        print("no result differs in its code alone: nothing to keep\n")
        return
    print(f"{count} results kept across the change of {', '.join(modules) or 'nothing'}; their records say so")
    for reason, times in refused.items():
        print(f"{times} not kept: {reason}")
    print()


def _last(plan: Plan, store: Store) -> dict[str, object] | None:
    return store.read_json(f"studies/{plan.study.name}.json")
