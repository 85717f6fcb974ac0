"""Provenance as CASE/UCO JSON-LD (caseontology.org 1.3, unifiedcyberontology.org 1.3): one investigative action for each entry.

A rendering for other people's tools. It is not signed, and proves nothing: the entries do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from dumpvault.formats.entry import Entry

__all__ = ["provenance"]

_CONTEXT = {
    "case-investigation": "https://ontology.caseontology.org/case/investigation/",
    "kb": "urn:dumpvault:kb:",
    "uco-action": "https://ontology.unifiedcyberontology.org/uco/action/",
    "uco-core": "https://ontology.unifiedcyberontology.org/uco/core/",
    "uco-identity": "https://ontology.unifiedcyberontology.org/uco/identity/",
    "uco-observable": "https://ontology.unifiedcyberontology.org/uco/observable/",
    "uco-tool": "https://ontology.unifiedcyberontology.org/uco/tool/",
    "uco-types": "https://ontology.unifiedcyberontology.org/uco/types/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


def provenance(
    origin: str, vault: str, manifest: bytes, sha256: str, entries: Sequence[tuple[int, Entry, str]]
) -> bytes:
    """The graph of ``entries``: (number, entry, principal). The same entries give the same bytes."""

    def name(kind: str, key: str) -> dict[str, str]:
        return {"@id": f"kb:{kind}-{uuid5(NAMESPACE_URL, f'urn:dumpvault:{origin}:{vault}:{kind}:{key}')}"}

    evidence = name("manifest", sha256)
    graph: list[dict[str, Any]] = [
        {
            **evidence,
            "@type": "uco-observable:File",
            "uco-core:hasFacet": [
                {
                    **name("file", sha256),
                    "@type": "uco-observable:FileFacet",
                    "uco-observable:fileName": f"vaults/{vault}/manifest.dsse.json",
                    "uco-observable:sizeInBytes": len(manifest),
                },
                {
                    **name("content", sha256),
                    "@type": "uco-observable:ContentDataFacet",
                    "uco-observable:hash": [
                        {
                            **name("hash", sha256),
                            "@type": "uco-types:Hash",
                            "uco-types:hashMethod": "SHA256",
                            "uco-types:hashValue": {"@type": "xsd:hexBinary", "@value": sha256.upper()},
                        }
                    ],
                },
            ],
        }
    ]
    seen: set[str] = set()

    def once(node: dict[str, Any]) -> dict[str, str]:
        if node["@id"] not in seen:
            seen.add(node["@id"])
            graph.append(node)
        return {"@id": node["@id"]}

    for number, entry, principal in entries:
        actor = once({**name("actor", principal), "@type": "uco-identity:Identity", "uco-core:name": principal})
        tool = once(
            {
                **name("tool", f"{entry.tool} {entry.version}"),
                "@type": "uco-tool:Tool",
                "uco-core:name": entry.tool,
                "uco-tool:version": entry.version,
            }
        )
        record = once(
            {
                **name("record", str(number)),
                "@type": "case-investigation:ProvenanceRecord",
                "uco-core:description": f"entry {number} of {origin}",
                "uco-core:object": [evidence],
            }
        )
        time = {"@type": "xsd:dateTime", "@value": entry.time.replace("Z", "+00:00")}
        action: dict[str, Any] = {
            **name("action", str(number)),
            "@type": "case-investigation:InvestigativeAction",
            "uco-core:name": entry.event,
            "uco-action:startTime": time,
            "uco-action:endTime": time,
            "uco-action:performer": actor,
            "uco-action:instrument": [tool],
            "uco-action:object": [evidence],
            "uco-action:result": [record],
        }
        if words := "; ".join(
            filter(
                None,
                (entry.purpose, entry.ticket, entry.from_ and f"from {entry.from_}", entry.to and f"to {entry.to}"),
            )
        ):
            action["uco-core:description"] = words
        graph.append(action)
    return json.dumps({"@context": _CONTEXT, "@graph": graph}, indent=1, ensure_ascii=False).encode() + b"\n"
