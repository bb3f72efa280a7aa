"""What to cite, as BibTeX; an architecture's paper stands in the head of its hparams file."""

import re
import unicodedata
from typing import NamedTuple


class Paper(NamedTuple):
    """Authors by their surnames, as in a sentence."""

    authors: str
    year: str
    title: str

    def bibtex(self) -> str:
        """An entry.

        >>> print(Paper("Della Libera et al.", "2024", "Resource-efficient separation").bibtex())
        @misc{dellalibera2024resource,
          author = {{Della Libera} and others},
          title = {{Resource-efficient separation}},
          year = {2024},
        }
        """
        names = re.split(", | and ", self.authors.replace(" et al.", " and others"))
        author = " and ".join(f"{{{name}}}" if " " in name else name for name in names)
        words = [names[0].replace(" ", ""), self.year, re.findall(r"\w+", self.title)[0]]
        key = unicodedata.normalize("NFKD", "".join(words).lower()).encode("ascii", "ignore")
        fields = {"author": author, "title": f"{{{self.title}}}", "year": self.year}
        lines = [f"  {field} = {{{value}}}," for field, value in fields.items()]
        return "\n".join([f"@misc{{{key.decode()},", *lines, "}"])


CORPUS = Paper(
    "Kleć, Szklanny and Wieczorkowska",
    "2024",
    "A solution for developing corpora for Polish speech enhancement in complex acoustic "
    "environments",
)
TOOLKIT = Paper("Ravanelli et al.", "2024", "Open-source conversational AI with SpeechBrain 1.0")


def paper_in(head: str) -> Paper | None:
    """The paper that comments name as ``Model: Authors 2024, "Title"``.

    >>> paper_in('# Model:  Xu et al. 2025, "TIGER: time\\n#         and frequency", small')
    Paper(authors='Xu et al.', year='2025', title='TIGER: time and frequency')
    """
    comments = (line.lstrip("# ") for line in head.splitlines() if line.startswith("#"))
    found = re.search(r'\bModel: +(\D+?) (\d{4}), "([^"]+)"', " ".join(comments))
    return Paper(*found.groups()) if found else None
