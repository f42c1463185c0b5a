"""This module renders pages: each method of `Pages` chooses what one template shows, and does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from api.pages import (
    banner,
    cards,
    check,
    contributors,
    docs,
    overview,
    pings,
    places,
    rows,
    server,
    share,
    text,
)  # fmt: skip
from api.pages.help import make_help
from api.pages.history import model_history_html, server_history_html
from api.pages.incidents import make_event, make_incidents
from api.pages.templating import environment
from api.pages.view import model_of
from shared import words
from shared.advice import commands
from shared.advice.models import model_advice, nearest_usable
from shared.days import parse_week
from shared.judgement.coverage import coverage
from shared.paste import MAX_KEPT
from shared.peer_id import BadPeerIdError, parse_peer_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.pages.history import ModelPast
    from api.pages.incidents import FirstSeen
    from api.pages.view import CheckView, View
    from shared.incidents import Incident
    from shared.public.contributors import ContributorEntry
    from shared.public.data import DataDocument, DataFile
    from shared.public.reports import ReportDocument
    from shared.public.search import SearchDocument
    from shared.snapshot import ModelReport, Snapshot
    from shared.store.history import ServerHistory

MAX_MODEL_ROWS = 1_000
"""Servers listed on a model's page; of more, the fastest. The JSON has all. That many take 58 kB to send."""
MAX_DAYS = 400
"""Days of the export that are listed."""
MAX_ADAPTER_SNIPPETS = 3
"""LoRAs for which a model's page has its own Python."""
_CHECK = "Check whether others in a Petals swarm can connect to a server, and at which stage it fails."


class Pages:
    """Renders every page. Built once, by the app; reads the templates at construction only."""

    def __init__(self, public_url: str = "", *, unfold: bool = True) -> None:
        """`public_url` is the monitor's address without a slash; `unfold`: whether links say the state elsewhere."""
        self._environment = environment()
        self._site = {"public_url": public_url, "unfold": unfold}
        # Kept for as long as the snapshot: to find paths takes most of the time of an overview of 10,000 servers.
        self._estimates: tuple[Snapshot | None, dict[str, cards.PathView]] = (None, {})

    def overview(self, view: View) -> str:
        """The page that answers "can I use this swarm now?", for any view: also without a snapshot.

        For one thread at a time.
        """
        if self._estimates[0] is not view.snapshot:
            self._estimates = (view.snapshot, {})
        headline = banner.headline(view)
        frame = _frame(headline.title, "swarm", view=view, same=text.SWARM_DOCUMENTS)
        frame["notices"] += banner.conflicts(view)
        return self._render(
            "overview", frame, headline=headline, changes_of="", **overview.parts(view, self._estimates[1])
        )

    def model(self, view: View, dht_prefix: str, *, history: ModelPast | None = None) -> str | None:
        """One model and all its servers; None where the snapshot (or the lack of one) does not know it.

        `history` is its past; None where that cannot be read.
        """
        snapshot = view.snapshot
        model = model_of(snapshot, dht_prefix)
        if model is None or snapshot is None:
            return None
        then = None if history is None else history.past(usable=coverage(model).has_path)
        judged = model_advice(model, snapshot, view.now, past=then, stale=view.stale)
        card = cards.make_card(model, judged, max_rows=0, stale=view.stale)
        instead = None if judged.usable else nearest_usable(model, snapshot)
        listed = model.servers
        if len(listed) > MAX_MODEL_ROWS:
            listed = tuple(rows.fastest(listed, MAX_MODEL_ROWS))
        frame = _frame(
            f"{card.short_name} {judged.advice.title}",
            "swarm",
            share.model_description(view, card),
            view=view,
            same=text.with_history(card.href),
        )
        frame["picture"] = f"/og{card.href}.png"
        return self._render(
            "model",
            frame,
            card=card,
            changes_of=_changes_of("model", dht_prefix),
            history=None if history is None else model_history_html(history, view.last_seen),
            incident=None if history is None or judged.usable else history.open_incident,
            instead=None if instead is None else (text.cut(instead.name, 60), text.model_href(instead.dht_prefix)),
            snippet=commands.client(instead or model, snapshot),
            snippet_for=text.cut((instead or model).name, 60),
            adapters=[]
            if instead
            else [
                (text.cut(name, 96), commands.client(model, snapshot, adapter=name))
                for name in commands.usable_adapters(model)[:MAX_ADAPTER_SNIPPETS]
            ],
            rows=rows.make_rows(listed, model.num_blocks),
            left_out=len(model.servers) - len(listed),
            matrix=pings.make_matrix(model),
            measured=any(server.next_pings for server in model.servers),
        )

    def server(
        self, view: View, peer_id: str, *, history: ServerHistory | None = None, incidents: Sequence[Incident] = ()
    ) -> str | None:
        """One server or bootstrap peer and its past; None where neither this nor the snapshot knows it."""
        found = server.make_server(view, peer_id, history, incidents)
        if found is None:
            return None
        advice = found.advice
        title = f"…{text.short_id(peer_id)} {advice.title}"
        same = text.with_history(text.server_href(peer_id))
        frame = _frame(title, "swarm", f"Server {title}. {advice.reason}", view=view, same=same)
        section = None if history is None else server_history_html(history, view.last_seen)
        changes_of = _changes_of("server", peer_id)
        return self._render("server", frame, server=found, stale=view.stale, history=section, changes_of=changes_of)

    def incidents(self, view: View, incidents: Sequence[Incident], pasts: Mapping[str, FirstSeen]) -> str:
        """Outages of all models: those that last, and those that ended. `pasts`: see `make_incidents`."""
        found = make_incidents(view, incidents, pasts)
        described = f"{found.title}. When models of this Petals swarm could not be used, and why."
        title = f"Incidents: {found.title}"
        frame = _frame(title, "incidents", described, view=view, same=text.INCIDENT_DOCUMENTS)
        return self._render("incidents", frame, found=found)

    def contributors(self, view: View, entries: Sequence[ContributorEntry]) -> str:
        """The ranking of contributors."""
        shown = contributors.make_cards(entries)
        return self._render(
            "contributors",
            _frame(
                "Contributors",
                "contributors",
                "Who lends GPUs to this Petals swarm, by the hours in which probes reached their servers.",
                view=view,
                same=[("JSON", "/api/v1/contributors")],
            ),
            cards=shown,
            left_out=len(entries) - len(shown),
            windows=[title for _, title in contributors.WINDOWS],
            private=view.snapshot is not None and view.snapshot.private_swarm,
        )

    def contributor(self, view: View, entries: Sequence[ContributorEntry], name: str) -> str | None:
        """One contributor; None where nothing under that name was ever reached."""
        card = contributors.make_card(entries, name)
        if card is None:
            return None
        frame = _frame(
            f"Contributor {card.name.text}",
            "contributors",
            f"What servers under the name {card.name.text} serve and served. Reached now: {card.now}.",
            view=view,
            same=[("JSON", f"/api/v1{text.contributor_href(name)}")],
        )
        return self._render("contributor", frame, card=card, changes_of=_changes_of("contributor", name))

    def data(self, view: View, document: DataDocument, *, exports: bool) -> str:
        """The files of the daily export by day; `exports` is whether this monitor writes any."""
        days: dict[str, dict[str, list[DataFile]]] = {}
        for file in document.files:
            days.setdefault(file.day, {}).setdefault(file.kind, []).append(file)
        return self._render(
            "data",
            _frame(
                "Open data",
                "data",
                "What crawls of this Petals swarm found, by the hour, as CSV and NDJSON files of one day.",
                view=view,
                same=[("JSON", "/api/v1/data")],
            ),
            days=list(days.items())[:MAX_DAYS],
            left_out=max(0, len(days) - MAX_DAYS),
            exports=exports,
        )

    def reports(self, view: View, weeks: Sequence[str]) -> str:
        """The weeks that have a report, the newest first."""
        described = "What each week of this Petals swarm was like: models, servers, incidents, thanks."
        same = [("JSON", "/api/v1/reports"), ("Atom feed", "/reports.atom")]
        frame = _frame("Weekly reports", "reports", described, view=view, same=same)
        return self._render("reports", frame, weeks=list(filter(None, map(parse_week, weeks))))

    def report(self, view: View, report: ReportDocument) -> str:
        """What a week was like."""
        return self._render(
            "report",
            _frame(
                f"Week {report.week}",
                "reports",
                f"Week {report.week} of this Petals swarm: {words.count(report.servers_online, 'server')} "
                f"online at some time, {words.count(report.num_incidents, 'incident')}.",
                view=view,
                same=[("JSON", f"/api/v1/reports/{report.week}")],
            ),
            report=report,
            thanks=[(text.shown_name(name), contributors.href(name), hours) for name, hours in report.thanks.items()],
        )

    def search(self, view: View, found: SearchDocument) -> str:
        """What a search found, with the box to search again."""
        frame = _frame("Search", "search", "Find a server, model or contributor of this Petals swarm.")
        return self._render("search", frame, found=found, no_snapshot=view.snapshot is None)

    def help(self, view: View, *, gpu_gb: int | None = None) -> str:
        """Where one more server counts most, and how to start it on a GPU of so many GB."""
        found = make_help(view, gpu_gb)
        described = "Where one more server counts most in this Petals swarm, and the command that starts it."
        frame = _frame("Lend a GPU", "help", described, view=view)
        return self._render("help", frame, help=found, stale=view.stale)

    def glossary(self) -> str:
        """The terms that pages use."""
        described = "The terms of this monitor of a Petals swarm: what is claimed, found and proved, and more."
        return self._render("glossary", _frame("Glossary", "glossary", described))

    def check(
        self,
        *,
        peer_id: str = "",
        answer: CheckView | None = None,
        problem: str | None = None,
        ours: bool = False,
        search: SearchDocument | None = None,
    ) -> str:
        """The form that asks about one peer and, given an `answer`, a `problem` or a `search`, what came of it.

        `ours` says that the problem is the monitor's and says nothing about the peer.

        The form sends `GET /check?q=…`, which may be any text: `search` is what it names where that is not one peer.
        """
        result = check.make_result(peer_id, answer) if answer is not None else None
        title = result.title if result is not None else "Check a server"
        return self._render(
            "check",
            _frame(title, "check", f"{title}. {result.advice.reason}" if result else _CHECK),
            peer_id=words.clean(peer_id),
            asked=search.query if search is not None else words.clean(peer_id),
            search=search,
            server_href=text.server_href(peer_id) if peer_id and answer and answer.known else "",
            result=result,
            stages=check.STAGES,
            problem=problem,
            ours=ours,
        )

    def picture(self, view: View, model: ModelReport | None) -> bytes:
        """The picture of a model, or of the whole swarm, as PNG: what a link unfolds to."""
        drawn = share.model_picture(view, share.model_card(view, model)) if model else share.swarm_picture(view)
        return share.png(self._environment.get_template("picture.svg").render(picture=drawn))

    def embed(self, view: View, model: ModelReport) -> str:
        """A card that other sites may show in a frame."""
        card = share.model_card(view, model)
        return self._environment.get_template("embed.html").render(card=card, description=share.counted(view, card))

    def share(self, model: ModelReport, base: str) -> str:
        """What shows a model elsewhere, to copy. `base` is the monitor's address."""
        name = text.name(model.short_name, 60)
        href = text.model_href(model.dht_prefix)
        return self._render(
            "share",
            _frame(f"Share {name}", "", f"Badges and a card that show the state of {name} on other sites."),
            name=name,
            href=href,
            badge=href.replace("/models/", "/badge/", 1) + ".svg",
            snippets=share.snippets(base, model.dht_prefix, model.short_name),
        )

    def places(self, view: View) -> str | None:
        """Servers by country and city; None where no location is known."""
        found = places.places(view.snapshot) if view.snapshot is not None else []
        if not found:
            return None
        described = "Servers of this Petals swarm by country and city, on a map and in a table."
        frame = _frame("Where the servers are", "places", described, view=view, same=text.SWARM_DOCUMENTS)
        return self._render("places", frame, places=found, map=places.world_map(found))

    def incident(self, view: View, incident: Incident) -> str:
        """One incident, under an address that stays."""
        event = make_event(incident, view.now, view.last_seen)
        title = f"{event.name}: {event.state}"
        described = f"{title}, {event.duration}. {event.blocks}. {event.summary}"
        frame = _frame(title, "incidents", described, view=view, same=text.INCIDENT_DOCUMENTS)
        return self._render("incident", frame, event=event)

    def docs(
        self,
        description: Mapping[str, Any],
        examples: Mapping[str, Any],
        fill: Mapping[str, str],
        *,
        base: str,
        rate_limit: int,
    ) -> str:
        """The API's documentation; see `docs.operations` for what it is made of."""
        return self._render(
            "docs",
            _frame("The API", "docs", "The HTTP API of this Petals monitor: parameters, examples, rate limits."),
            groups=docs.operations(description, examples, fill, base),
            documents=sorted(description["components"]["schemas"].items()),
            rate_limit=rate_limit,
        )

    def problem(
        self, status: int, title: str, detail: str, near: Sequence[tuple[str, str]] = (), asked: str = ""
    ) -> str:
        """An error page; `near` holds (text, href) of what the reader may have meant, `asked` what was looked for."""
        links = [
            (name, href)
            for name, href in near
            if (href.startswith("/") and not href.startswith("//")) or text.safe_link(href)
        ]
        try:
            check_href = text.check_href(parse_peer_id(asked))
        except BadPeerIdError:
            check_href = ""
        return self._render(
            "problem",
            _frame(title, ""),
            status=status,
            heading=title,
            detail=detail,
            near=links,
            asked=text.cut(asked, MAX_KEPT),
            check_href=check_href,
        )

    def _render(self, template: str, frame: dict[str, Any], **more: Any) -> str:
        return self._environment.get_template(f"{template}.html").render(self._site, **frame, **more)


def _changes_of(kind: str, name: str) -> str:
    """Return the query of the changes of a server, model or contributor, for its feed and its events."""
    return urlencode({kind: name}, errors="replace")


def _frame(
    title: str,
    section: str,
    description: str = "",
    *,
    view: View | None = None,
    same: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Return what base.html needs. A page with a `view` follows the swarm; `same` are (name, address) of other forms.

    Without a `description`, such a page is described by the swarm's state.
    """
    frame = {"title": title, "section": section, "same": same, "description": description}
    if view is None:
        nothing = {"snapshot": None, "snapshot_id": "", "notices": (), "picture": "", "located": False}
        return {**frame, "live": False, **nothing}
    return {
        **frame,
        "live": True,
        "description": description or share.swarm_description(view),
        "snapshot": view.snapshot,
        "snapshot_id": view.snapshot_id or "",
        "notices": banner.notices(view),
        "picture": "/og.png",
        "located": view.located,
    }
