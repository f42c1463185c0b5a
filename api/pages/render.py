"""This module renders views to HTML. `Pages` holds the compiled templates; its methods do no I/O and keep no state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

from api.pages import (
    banner,
    cards,
    charts,
    check,
    contributors,
    docs,
    pings,
    places,
    rows,
    server,
    share,
    text,
)  # fmt: skip
from api.pages import history as past
from api.pages.help import make_help
from api.pages.templating import environment, static_href
from api.pages.view import model_of
from shared import words
from shared.advice import commands
from shared.advice.models import model_advice, nearest_usable
from shared.advice.servers import what_failed
from shared.days import parse_week
from shared.judgement.contributors import serving
from shared.judgement.coverage import coverage
from shared.paste import MAX_KEPT
from shared.peer_id import BadPeerIdError, parse_peer_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from api.pages.search import SearchView
    from api.pages.view import CheckView, View
    from shared.incidents import Incident
    from shared.public.contributors import ContributorEntry
    from shared.public.data import DataDocument, DataFile
    from shared.public.reports import ReportDocument
    from shared.snapshot import ModelReport, Snapshot
    from shared.store.history import ServerHistory

MAX_CARDS = 40
"""Models drawn in full on the overview; anyone may announce more, and those are only listed."""
MAX_LISTED = 500
"""Models that the overview names after the cards."""
MAX_OVERVIEW_ROWS = 400
"""Servers listed on the overview over all models."""
MAX_MODEL_ROWS = 1_000
"""Servers listed on a model's page; of more, the fastest. The JSON has all. That many take 58 kB to send."""
MAX_CONTRIBUTORS = 12
MAX_NOT_COUNTED = 5
"""Contributors named for models that are not official."""
MAX_ISSUES = 200
MAX_DAYS = 400
"""Days of the export that are listed."""
MAX_ADAPTER_SNIPPETS = 3
"""LoRAs for which a model's page has its own Python."""
_UNBROKEN = re.compile(r"(--[a-z_]+(?: [A-Z]+\b| \d[\w.:]*)?)|…\w{6}\b|\d+–\d+")
MAX_CHIPS = 8
"""Models named in the verdict."""
_CHECK = "Check whether others in a Petals swarm can connect to a server, and at which stage it fails."


@dataclass(frozen=True, slots=True)
class Feed:
    """What a page's Watch button needs: the feed, and the query for the same changes on `/events`."""

    href: str
    query: str
    script: str
    alert_icon: str


class Pages:
    """Renders every page. Built once, by the app; reads the templates and static files at construction only."""

    def __init__(self, public_url: str = "", *, unfold: bool = True) -> None:
        """`public_url` is the monitor's address without a slash; `unfold`: whether links say the state elsewhere."""
        self._environment = environment()
        self._environment.filters.update(
            cut=text.cut, period=text.period, iso=words.rfc3339, utc=_utc, count=text.count
        )
        self._environment.filters.update(
            percent=charts.percent, duration=text.duration, number=text.number,
            model_href=text.model_href, server_href=text.server_href, day=_day, unbroken=_unbroken,
        )  # fmt: skip
        self._environment.globals.update(
            css=static_href("app.css"),
            js=static_href("app.js"),
            data_css=static_href("data.css"),
            check_js=static_href("check.js"),
            docs_css=static_href("docs.css"),
            places_css=static_href("places.css"),
            share_css=static_href("share.css"),
            public_url=public_url,
            unfold=unfold,
            icon=static_href("favicon.svg"),
            petals_docs=commands.DOCUMENTATION,
        )
        self._watch_script = static_href("watch.js")
        self._alert_icon = static_href("favicon-alert.svg")
        names = self._environment.list_templates(filter_func=lambda name: name.endswith(".html") and name[0] != "_")
        self._templates = {name.removesuffix(".html"): self._environment.get_template(name) for name in names}
        self._picture = self._environment.get_template("picture.svg")

    def overview(self, view: View) -> str:
        """The page that answers "can I use this swarm now?", for any view: also without a snapshot."""
        snapshot = view.snapshot
        models = snapshot.models if snapshot is not None else ()
        shown, budget = [], MAX_OVERVIEW_ROWS
        told_of = view.shown
        for model in models[:MAX_CARDS]:
            assert told_of is not None  # noqa: S101 - where there are models
            told = model_advice(model, told_of, view.now, stale=view.stale)
            shown.append(cards.make_card(model, told, max_rows=min(budget, cards.FULL_TABLE), stale=view.stale))
            budget -= len(shown[-1].rows)
        headline = banner.headline(view)
        not_counted = _not_counted(snapshot) if snapshot is not None else []
        served = [card for card in shown if card.num_servers]
        context = _swarm_context(view, headline.title, "swarm")
        context["notices"] += banner.conflicts(view)
        return self._render(
            "overview",
            context,
            headline=headline,
            feed=self._feed(),
            cards=shown,
            usable=[card for card in served if card.told.usable][:MAX_CHIPS],
            unusable=[card for card in served if not card.told.usable][:MAX_CHIPS],
            more_models=[
                (text.cut(model.name, 60) or "(nameless)", text.model_href(model.dht_prefix), model.state.value)
                for model in models[MAX_CARDS : MAX_CARDS + MAX_LISTED]
            ],
            figures=_figures(snapshot, served, stale=view.stale) if snapshot is not None else (),
            bootstrap=banner.bootstrap(snapshot, view.show_addresses) if snapshot is not None else (),
            issues=_issues(snapshot) if snapshot is not None else (),
            more_issues=max(0, len(snapshot.reachability_issues) - MAX_ISSUES) if snapshot is not None else 0,
            contributors=_contributors(snapshot) if snapshot is not None else (),
            not_counted=not_counted[:MAX_NOT_COUNTED],
            more_not_counted=len(not_counted[MAX_NOT_COUNTED:]),
            refused=sorted(snapshot.refused.by_reason.items()) if snapshot is not None else (),
        )

    def model(self, view: View, dht_prefix: str, *, history: past.ModelPast | None = None) -> str | None:
        """One model and all its servers; None where the snapshot (or the lack of one) does not know it.

        `history` is its past; None where that cannot be read.
        """
        snapshot = view.snapshot
        model = model_of(snapshot, dht_prefix)
        if model is None or snapshot is None:
            return None
        then = None if history is None else history.past(usable=coverage(model).has_path)
        shown = view.shown or snapshot
        told = model_advice(model, shown, view.now, past=then, stale=view.stale)
        card = cards.make_card(model, told, max_rows=0, stale=view.stale)
        instead = None if told.usable else nearest_usable(model, snapshot)
        listed = model.servers
        if len(listed) > MAX_MODEL_ROWS:
            listed = tuple(rows.fastest(listed, MAX_MODEL_ROWS))
        context = _swarm_context(
            view,
            f"{card.short_name} {told.advice.title}",
            "swarm",
            text.model_json(dht_prefix),
            description=share.model_description(view, card),
        )
        context["picture"] = f"/og{card.href}.png"
        return self._render(
            "model",
            context,
            card=card,
            feed=self._feed("model", dht_prefix),
            history=None if history is None else past.model_history_html(history, view.last_seen),
            incident=None if history is None or told.usable else history.open_incident,
            instead=None if instead is None else (text.cut(instead.name, 60), text.model_href(instead.dht_prefix)),
            snippet=commands.client(instead or model, shown),
            snippet_for=text.cut((instead or model).name, 60),
            adapters=[]
            if instead
            else [
                (text.cut(name, 96), commands.client(model, shown, adapter=name))
                for name in commands.usable_adapters(model)[:MAX_ADAPTER_SNIPPETS]
            ],
            documentation=commands.DOCUMENTATION,
            unnamed=commands.REPOSITORY,
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
        told = found.advice
        title = f"…{found.short_id} {told.title}"
        context = _swarm_context(
            view, title, "swarm", text.server_json(peer_id), description=f"Server {title}. {told.reason}"
        )
        section = None if history is None else past.server_history_html(history, view.last_seen)
        feed = self._feed("server", peer_id)
        return self._render("server", context, server=found, stale=view.stale, history=section, feed=feed)

    def incidents(self, view: View, incidents: Sequence[Incident], pasts: Mapping[str, past.FirstSeen]) -> str:
        """Outages of all models: those that last, and those that ended. `pasts`: see `make_incidents`."""
        found = past.make_incidents(view, incidents, pasts)
        context = _swarm_context(
            view,
            f"Incidents: {found.title}",
            "incidents",
            text.INCIDENT_DOCUMENTS,
            description=f"{found.title}. When models of this Petals swarm could not be used, and why.",
        )
        return self._render("incidents", context, found=found, stylesheet=past.stylesheet())

    def contributors(self, view: View, entries: Sequence[ContributorEntry]) -> str:
        """The ranking of contributors."""
        shown = contributors.make_cards(entries)
        return self._render(
            "contributors",
            _swarm_context(
                view,
                "Contributors",
                "contributors",
                text.CONTRIBUTOR_DOCUMENTS,
                description="Who lends GPUs to this Petals swarm, by the hours in which probes reached their servers.",
            ),
            cards=shown,
            left_out=len(entries) - len(shown),
            windows=[title for _, title in contributors.WINDOWS],
            private=view.snapshot is not None and view.snapshot.private_swarm,
        )

    def contributor(self, view: View, entries: Sequence[ContributorEntry], name: str) -> str | None:
        """One contributor; None where nothing under that name was ever reached."""
        cards = contributors.make_cards(entries, len(entries))
        card = next((card for card, entry in zip(cards, entries, strict=True) if entry.name == name), None)
        if card is None:
            return None
        context = _swarm_context(
            view,
            f"Contributor {card.name.text}",
            "contributors",
            [("JSON", f"/api/v1{text.contributor_href(name)}")],
            description=f"What servers under the name {card.name.text} serve and served. Reached now: {card.now}.",
        )
        return self._render("contributor", context, card=card, feed=self._feed("contributor", name))

    def data(self, view: View, document: DataDocument, *, exports: bool) -> str:
        """The files of the daily export by day; `exports` is whether this monitor writes any."""
        days: dict[str, dict[str, list[DataFile]]] = {}
        for file in document.files:
            days.setdefault(file.day, {}).setdefault(file.kind, []).append(file)
        return self._render(
            "data",
            _swarm_context(
                view,
                "Open data",
                "data",
                text.DATA_DOCUMENTS,
                description="What crawls of this Petals swarm found, by the hour, as CSV and NDJSON files of one day.",
            ),
            days=list(days.items())[:MAX_DAYS],
            left_out=max(0, len(days) - MAX_DAYS),
            exports=exports,
        )

    def reports(self, view: View, weeks: Sequence[str]) -> str:
        """The weeks that have a report, the newest first."""
        context = _swarm_context(
            view,
            "Weekly reports",
            "reports",
            text.REPORT_DOCUMENTS,
            description="What each week of this Petals swarm was like: models, servers, incidents, thanks.",
        )
        return self._render("reports", context, weeks=list(filter(None, map(parse_week, weeks))))

    def report(self, view: View, report: ReportDocument) -> str:
        """What a week was like."""
        return self._render(
            "report",
            _swarm_context(
                view,
                f"Week {report.week}",
                "reports",
                [("JSON", f"/api/v1/reports/{report.week}")],
                description=f"Week {report.week} of this Petals swarm: {text.count(report.servers_online, 'server')} "
                f"online at some time, {text.count(report.num_incidents, 'incident')}.",
            ),
            report=report,
            thanks=[(text.shown_name(name), contributors.href(name), hours) for name, hours in report.thanks.items()],
            stylesheet=past.stylesheet(),
        )

    def search(self, view: View, found: SearchView) -> str:
        """What a search found, with the box to search again."""
        context = _context("Search", "search", "Find a server, model or contributor of this Petals swarm.")
        return self._render("search", context, found=found, no_snapshot=view.snapshot is None)

    def help(self, view: View, *, gpu_gb: int | None = None) -> str:
        """Where one more server counts most, and how to start it on a GPU of so many GB."""
        found = make_help(view, gpu_gb)
        described = "Where one more server counts most in this Petals swarm, and the command that starts it."
        context = _swarm_context(view, "Lend a GPU", "help", (), description=described)
        return self._render("help", context, help=found, stale=view.stale, unnamed=commands.REPOSITORY)

    def glossary(self) -> str:
        """The terms that pages use."""
        described = "The terms of this monitor of a Petals swarm: what is claimed, found and proved, and more."
        return self._render("glossary", _context("Glossary", "glossary", described))

    def check(
        self,
        *,
        peer_id: str | None,
        answer: CheckView | None,
        problem: str | None,
        ours: bool = False,
        search: SearchView | None = None,
    ) -> str:
        """The form that asks about one peer and, given an `answer`, a `problem` or a `search`, what came of it.

        `ours` says that the problem is the monitor's and says nothing about the peer.

        The form sends `GET /check?q=…`, which may be any text: `search` is what it names where that is not one peer.
        """
        result = check.make_result(peer_id or "", answer) if answer is not None else None
        title = result.title if result is not None else "Check a server"
        return self._render(
            "check",
            _context(title, "check", f"{title}. {result.advice.reason}" if result else _CHECK),
            peer_id=text.clean(peer_id or ""),
            asked=search.pasted if search is not None else text.clean(peer_id or ""),
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
        return share.png(self._picture.render(picture=drawn))

    def embed(self, view: View, model: ModelReport) -> str:
        """A card that other sites may show in a frame."""
        card = share.model_card(view, model)
        return self._templates["embed"].render(card=card, description=share.counted(view, card))

    def share(self, model: ModelReport, base: str) -> str:
        """What shows a model elsewhere, to copy. `base` is the monitor's address."""
        name = text.cut(model.short_name, 60) or "(nameless)"
        href = text.model_href(model.dht_prefix)
        return self._render(
            "share",
            _context(f"Share {name}", "", f"Badges and a card that show the state of {name} on other sites."),
            name=name,
            href=href,
            badge=href.replace("/models/", "/badge/", 1) + ".svg",
            snippets=share.snippets(base, model.dht_prefix, model.short_name),
        )

    def places(self, view: View) -> str | None:
        """Servers by country and city; None where no location is known or may be shown."""
        found = places.places(view.snapshot) if view.snapshot is not None and view.show_addresses else []
        if not found:
            return None
        described = "Servers of this Petals swarm by country and city, on a map and in a table."
        context = _swarm_context(view, "Where the servers are", "places", description=described)
        return self._render("places", context, places=found, map=places.world_map(found))

    def incident(self, view: View, event: past.Event) -> str:
        """One incident, under an address that stays."""
        context = _swarm_context(
            view,
            f"{event.name}: {event.state}",
            "incidents",
            text.INCIDENT_DOCUMENTS,
            description=f"{event.name}: {event.state}, {event.duration}. {event.blocks}. {event.summary}",
        )
        return self._render("incident", context, event=event, stylesheet=past.stylesheet())

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
            _context("The API", "docs", "The HTTP API of this Petals monitor: parameters, examples, rate limits."),
            groups=docs.operations(description, examples, fill, base),
            documents=docs.documents(description),
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
            _context(title, ""),
            status=status,
            heading=title,
            detail=detail,
            near=links,
            asked=text.cut(asked, MAX_KEPT),
            check_href=check_href,
        )

    def _feed(self, of: str = "", name: str = "") -> Feed:
        """Return what follows a server, model or contributor: the kind and the name; without both: the swarm."""
        query = urlencode({of: name}, errors="replace") if of else ""
        href = f"/changes.atom?{query}" if of else "/changes.atom"
        return Feed(href, query or "changes=all", self._watch_script, self._alert_icon)

    def _render(self, template: str, context: dict[str, Any], **more: Any) -> str:
        return self._templates[template].render(context, **more)


def _context(title: str, section: str, description: str = "") -> dict[str, Any]:
    return {
        "title": title,
        "section": section,
        "snapshot": None,
        "snapshot_id": "",
        "live": False,
        "notices": (),
        "same": (),
        "description": description,
        "picture": "",
        "located": False,
    }


def _swarm_context(
    view: View,
    title: str,
    section: str,
    same: Sequence[tuple[str, str]] = text.SWARM_DOCUMENTS,
    *,
    description: str = "",
) -> dict[str, Any]:
    """What the frame of a page that follows the swarm needs. `same` are (name, address) of the page in other forms.

    Without a `description` the page is described by the swarm's state.
    """
    return {
        "title": title,
        "section": section,
        "snapshot": view.snapshot,
        "snapshot_id": view.snapshot_id or "",
        "live": True,
        "notices": banner.notices(view),
        "same": same,
        "description": description or share.swarm_description(view),
        "picture": "/og.png",
        "located": view.show_addresses
        and view.snapshot is not None
        and any(server.location for model in view.snapshot.models for server in model.servers),
    }


def _figures(snapshot: Snapshot, served: Sequence[cards.Card], *, stale: bool) -> list[tuple[str, str, str]]:
    """(value, of how many, what) for the tiles beside the verdict."""
    were = "were " if stale else ""
    online = sum(card.num_online for card in served)
    spans = sum(card.num_servers for card in served)
    reached = sum(peer.verdict == "reachable" for peer in snapshot.bootstrap_peers)
    peers = (f"{reached}", f"{len(snapshot.bootstrap_peers)}", f"bootstrap peers {were}up")
    if not served:
        return [peers]
    return [
        (f"{sum(card.told.usable for card in served)}", f"{len(served)}", f"models {were}usable"),
        (f"{online:,}", f"{spans:,}", f"servers {were}online"),
        peers,
    ]


@dataclass(frozen=True, slots=True)
class IssueGroup:
    """Servers that fail in the same way: the error, what to do, (short id, address of the page) of each."""

    error: str
    advice: str
    peers: list[tuple[str, str]]


def _issues(snapshot: Snapshot) -> list[IssueGroup]:
    groups: dict[tuple[str, str], IssueGroup] = {}
    causes = {server.peer_id: server.cause for model in snapshot.models for server in model.servers if server.cause}
    for issue in snapshot.reachability_issues[:MAX_ISSUES]:
        error, advice = what_failed(causes.get(issue.peer_id), issue.error), text.cut(issue.advice, 600)
        group = groups.setdefault((error, advice), IssueGroup(error, advice, []))
        group.peers.append((text.cut(issue.peer_id[-6:]), text.server_href(issue.peer_id)))
    return list(groups.values())


def _contributors(snapshot: Snapshot) -> list[tuple[text.Shown, str | None, str]]:
    """(name, address of its page if it has one, blocks) of those who serve most now."""
    most, ranked = list(snapshot.top_contributors.items())[:MAX_CONTRIBUTORS], serving(snapshot)
    return [
        (
            text.shown_name(name),
            contributors.href(name) if name in ranked else None,
            f"{text.number(blocks)} block{'s' if blocks != 1 else ''}",
        )
        for name, blocks in most
    ]


def _not_counted(snapshot: Snapshot) -> list[text.Shown]:
    """Return the public names that show in tables and that no official model has."""
    names = {
        server.public_name
        for model in snapshot.models
        for server in model.servers
        if server.show_public_name and server.public_name and server.public_name not in snapshot.top_contributors
    }
    return [text.shown_name(name) for name in sorted(names)]


def _unbroken(sentence: str) -> Markup:
    """Return a sentence as HTML in which no flag with its value, peer and range of blocks is broken between lines."""

    def kept(found: re.Match[str]) -> str:
        tag = "code" if found[1] else "span"
        return f'<{tag} class="nowrap">{found[0]}</{tag}>'

    return Markup(_UNBROKEN.sub(kept, str(escape(sentence))))  # noqa: S704 - escaped


def _day(seconds: float) -> str:
    return f"{text.utc(seconds):%-d %B %Y}"


def _utc(seconds: float) -> str:
    return f"{text.utc(seconds):%Y-%m-%d %H:%M:%S} UTC"
