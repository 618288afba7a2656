"""A site, the same again, and its removal, on a bare host: what `make matrix` runs with each ansible-core."""

from __future__ import annotations

from real_host import Host


def test_site_again_and_absent(host: Host) -> None:
    before = host.manifest()
    first = host.play()
    assert first.rc == 0 and first.changed, first.output
    assert host.last_run() == "COMPLETED"

    second = host.play()
    assert second.rc == 0, second.output
    assert second.changed == 0, second.output

    gone = host.play("playbooks/absent.yml", {"prefect_purge": True})
    assert gone.rc == 0, gone.output
    assert host.manifest() - before == set()
    assert before - host.manifest() == set()
