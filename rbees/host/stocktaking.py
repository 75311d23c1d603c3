"""What runs on this host already: workers of an earlier keeper are adopted, and those that ended unseen are accounted for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from rbees.host import lifecycle, worker_log
from rbees.host.process import Exit, Identity, WorkerFinder, WorkerProcess, is_running, send_signal
from rbees.host.process_table import EndedWorker, ProcessRecord
from rbees.host.roster import Roster
from rbees.host.worker import Worker
from rbees.host.worker_around import Surroundings
from rbees.host.worker_facts import end_of, ended_as, facts_of, socket_of
from rbees.host.worker_spec import WorkerSpec
from rbees.service import logs

FIRST_LOOK_S: Final = 2.0


class Stocktaking:
    """Brings the roster, the table of processes and the processes themselves together."""

    def __init__(self, roster: Roster, owner: str, around: Surroundings) -> None:
        self._roster = roster
        self._finder = WorkerFinder(owner)
        self._around = around
        self._log = logs.logger()

    async def take(self, *, is_alone: bool = True) -> None:
        """Know every worker that the table or a command line tells of. With `is_alone` nobody is starting one just now."""
        table = self._around.table
        # Read before those that run: an end that was written down before the worker was seen to live was none.
        ends = await asyncio.to_thread(table.load_ended, frozenset(self._roster.ended))
        records = await asyncio.to_thread(table.load)
        running = dict(await asyncio.to_thread(lambda: [(spec.worker_id, (who, spec)) for who, spec in self._finder.look()]))
        for ended in ends:
            await self._recall(ended, records, running)
        known = frozenset(self._roster.living)
        for record in records:
            if record.spec.worker_id not in known and record.spec.worker_id not in self._roster.starting:
                await self._adopt_recorded(record, running.pop(record.spec.worker_id, None), is_alone=is_alone)
        for identity, spec in running.values():
            if spec.worker_id not in self._roster.living and spec.worker_id not in self._roster.starting:
                await self._adopt_found(identity, spec)
        await self._meet([worker for worker_id, worker in self._roster.living.items() if worker_id not in known])
        for worker_id in known - {record.spec.worker_id for record in records}:
            if worker_id in self._roster.living:
                self._log.warning("a worker's record was lost", action="record_lost", worker_id=worker_id)
                await self._roster.living[worker_id].write_again()

    async def _recall(
        self, ended: EndedWorker, records: Sequence[ProcessRecord], running: Mapping[str, tuple[Identity, WorkerSpec]]
    ) -> None:
        """One that ended under an earlier keeper. What nobody could pass on then is passed on now."""
        facts = ended.facts
        if worker := self._roster.living.get(facts.worker_id):
            if worker.is_running:
                await self._forget_end(facts.worker_id)
            return  # If it has just ended, the consequence is drawn where it is watched.
        record = next((record for record in records if record.spec.worker_id == facts.worker_id), None)
        if record is not None and _lives(record, running.get(facts.worker_id)):
            await self._forget_end(facts.worker_id)
            return
        self._roster.remember_ended(facts)
        if not ended.told and self._around.reporter.tells:
            self._around.reporter.has_failed(facts, while_loading=ended.while_loading)
            await self._note_end(msgspec.structs.replace(ended, told=True))

    async def _forget_end(self, worker_id: str) -> None:
        """Somebody took it for ended who did not know that it was started again."""
        self._log.warning("an end was noted of a worker that lives", action="end_taken_back", worker_id=worker_id)
        try:
            await asyncio.to_thread(self._around.table.remove_ended, worker_id)
        except OSError as error:
            self._log.error("cannot delete the note of an end", action="end_remove_failed", reason=error.strerror)

    async def _adopt_recorded(self, record: ProcessRecord, found: tuple[Identity, WorkerSpec] | None, *, is_alone: bool) -> None:
        if record.pid is not None and record.started is not None:
            identity = Identity(record.pid, record.started)
            if is_running(identity):
                self._take_over(record, identity)
                return
        if found is not None:
            # Started just before the earlier keeper died, or in safe mode since: the command line is newer than the record.
            await self._adopt_found(*found)
        elif is_alone or record.pid is not None:
            await self._bury(record)

    async def _adopt_found(self, identity: Identity, spec: WorkerSpec) -> None:
        """A process that is marked as ours and has no record: the state folder was lost, or never written."""
        if spec.worker_id in self._roster.ended:
            if await asyncio.to_thread(send_signal, identity, signal.SIGTERM):
                self._log.warning("a process of an ended worker is told to end", action="stray_worker", pid=identity.pid)
            return
        reserved_bytes = await asyncio.to_thread(_size_of, Path(spec.model_path))
        now_ms = self._around.clock.unix_ms()
        record = ProcessRecord(
            spec=spec, reserved_bytes=reserved_bytes, started_at_ms=now_ms, pid=identity.pid, started=identity.started
        )
        try:
            await asyncio.to_thread(self._around.table.write, record)
        except OSError as error:
            self._log.error("cannot write the worker's record", action="record_write_failed", reason=error.strerror)
        self._take_over(record, identity)

    def _take_over(self, record: ProcessRecord, identity: Identity) -> None:
        self._log.info("adopted worker", action="worker_adopt", worker_id=record.spec.worker_id, pid=identity.pid)
        self._roster.supervise(Worker(record, WorkerProcess(identity), None, self._around))

    async def _meet(self, adopted: Sequence[Worker]) -> None:
        """Ask those that were taken over how they are: who was ready before must be so again in the first registration."""
        looks = [asyncio.create_task(worker.look()) for worker in adopted]
        if looks:
            await asyncio.wait(looks, timeout=FIRST_LOOK_S)
        for worker in adopted:
            if worker.record.stop_asked:
                worker.stop()

    async def _bury(self, record: ProcessRecord) -> None:
        """The process died while nobody watched: what its log says of the reason is all that can be known."""
        worker_id, log = record.spec.worker_id, self._around.table.log_path(record.spec.worker_id)
        if worker_id not in self._roster.ended:
            tail = await asyncio.to_thread(worker_log.tail, log)
            life = lifecycle.Life(
                "draining" if record.stop_asked else "loading", safe_mode=record.spec.safe_mode, was_ready=record.was_ready
            )
            event = ended_as(Exit(signal=await asyncio.to_thread(worker_log.last_signal, log)), tail)
            life, actions = lifecycle.advance(life, event)
            if life.state not in lifecycle.ENDED:
                # It deserved a second try, in safe mode, when it ended; now nobody waits for it any more.
                event = lifecycle.Ended(
                    signal=event.signal, message=f"The worker was killed by {event.signal} while it loaded its model."
                )
                life, actions = lifecycle.advance(life, event)
            end = end_of(actions[0], event, tail, self._around.clock, record.stopped_by)
            assert end is not None, "whatever ends from these states is over"
            last_sign_at_ms = await asyncio.to_thread(worker_log.last_written_ms, log)
            facts = facts_of(record, life, adopted=True, end=msgspec.structs.replace(end, last_sign_at_ms=last_sign_at_ms))
            failure = next((action for action in actions if isinstance(action, lifecycle.ReportFailed)), None)
            tells = self._around.reporter.tells
            if failure is not None:
                self._around.reporter.has_failed(facts, while_loading=failure.while_loading)
            while_loading = failure is not None and failure.while_loading
            self._roster.remember_ended(facts)
            await self._note_end(EndedWorker(facts=facts, while_loading=while_loading, told=tells or failure is None))
        try:
            await asyncio.to_thread(self._around.table.remove, worker_id)
            await asyncio.to_thread(socket_of(record).unlink, missing_ok=True)
        except OSError as error:
            self._log.error("cannot remove the worker's record", action="record_remove_failed", reason=error.strerror)

    async def _note_end(self, ended: EndedWorker) -> None:
        try:
            await asyncio.to_thread(self._around.table.write_ended, ended)
        except OSError as error:
            self._log.error("cannot write down how a worker ended", action="end_write_failed", reason=error.strerror)


def _lives(record: ProcessRecord, found: tuple[Identity, WorkerSpec] | None) -> bool:
    """Whether the process of a record runs: the one that it names, or one with its mark where it names none yet."""
    if found is not None and found[1].nonce == record.spec.nonce:
        return is_running(found[0])
    return record.pid is not None and record.started is not None and is_running(Identity(record.pid, record.started))


def _size_of(model: Path) -> int:
    return model.stat().st_size if model.is_file() else 0
