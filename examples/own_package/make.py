"""Makes ``spectra.mgf``: b and y ions of tryptic peptides of human ubiquitin (P0CG48), each plain, again, and modified.

Computed from monoisotopic masses (https://www.unimod.org/masses.html), in unified atomic mass units, with 5 ppm of
error, uneven intensities and peaks of noise; the same numbers each time. Titles are ProForma.
"""

import re
from pathlib import Path

import numpy as np

PROTON, WATER = 1.007276, 18.010565
RESIDUES = {
    "G": 57.021464, "A": 71.037114, "S": 87.032028, "P": 97.052764, "V": 99.068414, "T": 101.047679,
    "L": 113.084064, "I": 113.084064, "N": 114.042927, "D": 115.026943, "Q": 128.058578, "K": 128.094963,
    "E": 129.042593, "M": 131.040485, "H": 137.058912, "F": 147.068414, "R": 156.101111, "Y": 163.063329,
}  # fmt: skip
PEPTIDES = {
    "M[+15.9949]QIFVK": 2,
    "TLT[+79.9663]GK": 2,
    "TITLEVEPS[+79.9663]DTIENVK": 3,
    "IQDKEGIPPDQ[+0.9840]QR": 3,
    "LIFAGK[+42.0106]": 2,
    "QLEDGR[+14.0157]": 2,
    "TLSDY[+79.9663]NIQK": 2,
    "ES[+79.9663]TLHLVLR": 3,
}


def masses(peptide: str) -> np.ndarray:
    """Of the residues with their modifications."""
    pairs = re.findall(r"([A-Z])(?:\[([^]]+)\])?", peptide)
    return np.array([RESIDUES[letter] + float(change or 0) for letter, change in pairs])


def spectrum(peptide: str, charge: int, run: int, rng: np.random.Generator) -> str:
    """One record."""
    mass = masses(peptide)
    ions = np.concatenate([np.cumsum(mass)[:-1], np.cumsum(mass[::-1])[:-1] + WATER]) + PROTON
    mz = np.concatenate([ions * (1 + 5e-6 * rng.normal(size=len(ions))), rng.uniform(110, 1400, 8)])
    height = np.concatenate([1e5 * rng.lognormal(0, 0.5, len(ions)), 2e3 * rng.lognormal(0, 0.5, 8)])
    peaks = "\n".join(f"{mz[at]:.4f} {height[at]:.0f}" for at in np.argsort(mz))
    precursor = (mass.sum() + WATER + charge * PROTON) / charge
    title = f"TITLE={peptide}/{charge} run {run}\nPEPMASS={precursor:.4f}\nCHARGE={charge}+"
    return f"BEGIN IONS\n{title}\n{peaks}\nEND IONS\n\n"


rng = np.random.default_rng(20)
plain = {re.sub(r"\[.*?\]", "", peptide): charge for peptide, charge in PEPTIDES.items()}
runs = ((plain, 1), (PEPTIDES, 1), (plain, 2))
text = "".join(spectrum(peptide, charge, run, rng) for some, run in runs for peptide, charge in some.items())
Path(__file__).with_name("spectra.mgf").write_text(text)
