"""Serves the exported funnel over HTTP: a page for people, and JSON for programs.

    GET /                                  the page
    GET /api/users                         the numbers of known users
    GET /api/films?search=alien            titles that contain a text
    GET /api/recommend?user=7              a list for a known user
    GET /api/recommend?films=1,260,1196    a list for somebody who liked these films; a film is its movieId

A new visitor needs no number: the models know users by their histories alone. It listens on this machine only.
"""

import http.server
import json
import pathlib
import time
import urllib.parse

import numpy as np

from examples.video_recommender import data
from examples.video_recommender.funnel import Funnel, Recommendation

PAGE = pathlib.Path(__file__).with_name("page.html")
LIKED_STARS = 5.0  # what a visitor gives to the films that were chosen
SHOWN_HISTORY = 10
FOUND = 10  # titles that a search returns


class InvalidRequestError(ValueError):
    """A request that cannot be answered; its text is for the user."""


class Service:
    """Answers requests from an exported funnel.

    Args:
        funnel: what was trained.
    """

    def __init__(self, funnel: Funnel) -> None:
        self._funnel = funnel
        ratings = funnel.ratings
        self._numbers = {int(film): number for number, film in enumerate(ratings.ids) if number}
        self._first = np.searchsorted(ratings.users, np.arange(ratings.num_users + 1))
        self._now = int(ratings.times.max()) + 1
        self.recommend_for_films([self.film(1)["id"]])  # the first call of a model takes longer

    def users(self) -> dict:
        """Returns the numbers of users."""
        return {"users": self._funnel.ratings.num_users}

    def search(self, text: str) -> list[dict]:
        """Returns films whose titles contain a text, those with the most ratings first."""
        titles = self._funnel.ratings.titles
        found = np.array([n for n, title in enumerate(titles) if n and text.lower() in title.lower()], np.int64)
        counts, _ = self._funnel.catalog.before(found, np.full(len(found), self._now))
        return [self.film(int(number)) for number in found[np.argsort(-counts, kind="stable")[:FOUND]]]

    def film(self, number: int) -> dict:
        """Returns what is shown of a film."""
        ratings = self._funnel.ratings
        names = [name for name, has in zip(ratings.genre_names, ratings.genres[number], strict=True) if has]
        return {"id": int(ratings.ids[number]), "title": ratings.titles[number], "genres": names}

    def recommend_for_user(self, user: int) -> dict:
        """Returns a list for a known user."""
        ratings = self._funnel.ratings
        if not 0 <= user < ratings.num_users:
            raise InvalidRequestError(f"user must be a number from 0 to {ratings.num_users - 1}. Received: {user}.")
        own = slice(self._first[user], self._first[user + 1])
        return self._recommend(ratings.films[own], ratings.stars[own])

    def recommend_for_films(self, ids: list[int]) -> dict:
        """Returns a list for somebody who liked some films."""
        unknown = [film for film in ids if film not in self._numbers]
        if unknown or not ids:
            raise InvalidRequestError(f"films must be the movieIds of known films. Received: {unknown or 'none'}.")
        films = np.array([self._numbers[film] for film in ids], np.int64)
        return self._recommend(films, np.full(len(films), LIKED_STARS, np.float32))

    def _recommend(self, films: np.ndarray, stars: np.ndarray) -> dict:
        began_s = time.perf_counter()
        found = self._funnel.recommend(data.request(films, stars, self._now), films)
        newest = list(zip(films[::-1], stars[::-1], strict=True))[:SHOWN_HISTORY]
        return {
            "history": [self.film(int(film)) | {"stars": float(given)} for film, given in newest],
            "films": [self._shown(found, place) for place in range(len(found.films))],
            "stages": [
                {"stage": stage, "films": found.handed_on[stage], "ms": round(spent, 2)}
                for stage, spent in found.milliseconds.items()
            ],
            "total_ms": round(1000 * (time.perf_counter() - began_s), 2),
        }

    def _shown(self, found: Recommendation, place: int) -> dict:
        """Returns a film of a list, with the reason."""
        because = int(found.because[place])
        return self.film(int(found.films[place])) | {
            "watch": float(found.watch[place]),
            "like": float(found.like[place]),
            "because": self._funnel.ratings.titles[because] if because else None,
        }


def answer(service: Service, target: str) -> tuple[int, str, bytes]:
    """Returns status, type and body for the target of a GET request."""
    url = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(url.query))
    if url.path == "/":
        return 200, "text/html; charset=utf-8", PAGE.read_bytes()
    try:
        if url.path == "/api/users":
            found: object = service.users()
        elif url.path == "/api/films":
            found = service.search(query.get("search", ""))
        elif url.path == "/api/recommend" and "user" in query:
            found = service.recommend_for_user(*_integers("user", query["user"], 1))
        elif url.path == "/api/recommend":
            found = service.recommend_for_films(_integers("films", query.get("films", ""), data.LENGTH))
        else:
            return 404, "application/json", json.dumps({"error": f"there is no {url.path}"}).encode()
    except InvalidRequestError as error:
        return 400, "application/json", json.dumps({"error": str(error)}).encode()
    return 200, "application/json", json.dumps(found).encode()


def _integers(name: str, text: str, most: int) -> list[int]:
    """Parses numbers that are separated by commas."""
    parts = text.split(",") if text else []
    if not 1 <= len(parts) <= most or not all(part.isdecimal() and len(part) < 18 for part in parts):
        rule = "a number" if most == 1 else f"1 to {most} numbers, separated by commas"
        raise InvalidRequestError(f"{name} must be {rule}. Received: {text[:80]!r}.")
    return [int(part) for part in parts]


def make_server(folder: pathlib.Path, port: int) -> http.server.ThreadingHTTPServer:
    """Makes a server that listens on this machine; port 0 takes a free one."""
    service = Service(Funnel(folder))

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers GET requests."""

        def do_GET(self) -> None:  # noqa: N802, the name that http.server calls
            status, kind, body = answer(service, self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Logs nothing: the page shows what requests took."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(folder: pathlib.Path, port: int) -> None:
    """Serves until it is interrupted."""
    with make_server(folder, port) as server:
        print(f"open http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
