"""What goes wrong in a simulated cluster: processes die and hang, hosts lose power and network, orcd itself stalls and dies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from rbees.protocol.errors import ErrorCode
from tests.simulation.hosts import Host, SimWorker

if TYPE_CHECKING:
    from tests.simulation.world import World

HANG_S: Final = 5.0
FIRST_S: Final = 20.0
MEAN_PAUSE_S: Final = 15.0
FIRST_TICKS_S: Final = (0.0, 0.002, 0.5)
"""How long after a stall the first timer may come round: before anything else, among what has waited, or behind it."""


class Faults:
    """Picks a fault and a host at random, again and again, until the world is to be calm."""

    def __init__(self, world: World, most: int | None) -> None:
        self._world = world
        self._most = most
        self.count = 0
        self._kinds = (
            self._kill_worker,
            self._kill_worker,
            self._hang_worker,
            self._cut,
            self._cut_all,
            self._bounce_daemon,
            self._reboot,
            self._kill_orcd,
            self._drain_orcd,
            self._stall_orcd,
        )
        world.after(FIRST_S, self._next_fault)

    def _next_fault(self) -> None:
        if self._world.calm or self.count == self._most:
            return
        self.count += 1
        host = self._world.rng.choice(list(self._world.hosts.values()))
        fault = self._world.rng.choice(self._kinds)
        fault(host)
        self._world.after(self._world.rng.expovariate(1 / MEAN_PAUSE_S), self._next_fault)

    def _kill_worker(self, host: Host) -> None:
        for worker in list(host.workers.values())[:1]:
            self._world.die(host, worker, "killed")

    def _hang_worker(self, host: Host) -> None:
        for worker in list(host.workers.values())[:1]:
            worker.hung_until_s = self._world.now_s + self._world.rng.uniform(1.0, 14.0)
            if worker.hung_until_s > self._world.now_s + HANG_S:
                self._world.after(HANG_S, partial(self._notice_hang, host, worker))

    def _notice_hang(self, host: Host, worker: SimWorker) -> None:
        if worker.alive and not self._world.deaf():
            for stream in self._world.shell.streams_of(host, worker.worker_id):
                self._world.shell.failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True, hung=True)

    def _cut(self, host: Host) -> None:
        host.cut_until_s = self._world.now_s + self._world.rng.choice((2.0, 4.0, 8.0, 12.0, 30.0, 70.0))
        self._expect_silence(host)

    def _cut_all(self, _host: Host) -> None:
        for host in self._world.hosts.values():
            self._cut(host)

    def _expect_silence(self, host: Host) -> None:
        """After `HANG_S` without a beat, orcd takes every stream from the host for standing."""

        def look() -> None:
            if not host.reachable(self._world.now_s) and not self._world.deaf():
                for stream in self._world.shell.streams_of(host):
                    self._world.shell.failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True, hung=True)

        self._world.after(HANG_S, look)

    def _bounce_daemon(self, host: Host) -> None:
        """kill -9 of the pool daemon; its workers live on and are adopted."""
        if host.daemon_up:
            host.daemon_up = False
            self._world.after(self._world.rng.uniform(0.5, 20.0), lambda: self._daemon_returns(host))

    def _daemon_returns(self, host: Host) -> None:
        host.boot += 1
        host.daemon_up = True
        host.changed()

    def _reboot(self, host: Host) -> None:
        """The power fails: nothing is reset, nothing answers, and what ran is gone."""
        if not host.powered:
            return
        host.powered = False
        for worker in host.workers.values():
            self._world.take_down(worker)
        host.workers.clear()
        self._expect_silence(host)
        self._world.after(self._world.rng.uniform(4.0, 60.0), lambda: self._power_returns(host))

    def _power_returns(self, host: Host) -> None:
        host.powered = True
        if self._world.shell.up:
            # Packets of old connections are answered with a reset now.
            for stream in self._world.shell.streams_of(host):
                self._world.tell_failed(stream, ErrorCode.WORKER_UNREACHABLE, suspect=True)
        self._daemon_returns(host)

    def _kill_orcd(self, _host: Host) -> None:
        if self._world.shell.up:
            self._world.shell.kill()
            self._world.after(self._world.rng.uniform(0.5, 8.0), self._world.shell.restart)

    def _drain_orcd(self, host: Host) -> None:
        """SIGTERM: what runs may go on for a while, then the process is gone."""
        if self._world.shell.up and not self._world.deaf():
            self._world.shell.drain()
            self._world.after(self._world.rng.uniform(0.5, 8.0), lambda: self._kill_orcd(host))

    def _stall_orcd(self, _host: Host) -> None:
        if self._world.shell.up and self._world.now_s >= self._world.shell.stalled_until_s:
            seconds = self._world.rng.uniform(1.0, 12.0)
            self._world.shell.stalled_until_s = self._world.now_s + seconds
            # Whatever comes next, a timer or a fact that has waited, meets an orcd that does not know of its stall yet.
            self._world.after(seconds + FIRST_TICKS_S[round(seconds * 1000) % len(FIRST_TICKS_S)], self._goes_on)

    def _goes_on(self) -> None:
        if self._world.shell.up and not self._world.deaf():
            self._world.shell.tick()
