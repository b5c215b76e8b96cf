"""The ledger of power cuts adds up over runs."""

from __future__ import annotations

from pathlib import Path

from tests.fault.cut_ledger import CutLedger


def test_ledger_goes_on_from_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    for cuts, violations in ((10, []), (12, ["lost"])):
        ledger = CutLedger.load(path)
        ledger.cuts += cuts
        ledger.violations += violations
        ledger.save(path)
    assert CutLedger.load(path) == CutLedger(cuts=22, violations=["lost"])
    assert list(tmp_path.iterdir()) == [path]
    assert CutLedger.load(path).describe().startswith("22 of 1,000 power cuts so far")
