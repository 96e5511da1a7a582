"""The papers behind a config, as text or BibTeX.

    ofa cite configs/digits.toml --bibtex

`PAPERS` has every paper, and `SOURCES` the papers of every name that a setting with an open list may have; an empty tuple
marks this project's own methods and common knowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobs.config import Experiment


@dataclass(frozen=True, slots=True)
class Paper:
    """A publication. authors: full names; where: journal, proceedings or publisher; source: "arXiv:..." or "doi:..."."""

    title: str
    authors: tuple[str, ...]
    year: int
    where: str
    source: str
    kind: Literal["article", "inproceedings", "misc", "book"] = "inproceedings"

    @property
    def url(self) -> str:
        """The URL of the paper: its page on arXiv, or its DOI."""
        scheme, _, name = self.source.partition(":")
        return f"https://arxiv.org/abs/{name}" if scheme == "arXiv" else f"https://doi.org/{name}"

    def text(self) -> str:
        """Authors, year, title, where and source, in one line."""
        names = f"{self.authors[0]} et al." if len(self.authors) > 3 else ", ".join(self.authors)
        return f"{names} ({self.year}). {self.title}. {self.where}, {self.source}"

    def bibtex(self, key: str) -> str:
        """The entry, without a newline at its end."""
        venue = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished", "book": "publisher"}[self.kind]
        scheme, _, name = self.source.partition(":")
        found = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), "year": self.year, venue: self.where}
        found |= {"eprint": name, "archivePrefix": "arXiv"} if scheme == "arXiv" else {"doi": name}
        return "\n".join([f"@{self.kind}{{{key},", *(f"  {field} = {{{value}}}," for field, value in found.items()), "}"])


PAPERS: dict[str, Paper] = {
    "cai2020once": Paper(
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        ("Han Cai", "Chuang Gan", "Tianzhe Wang", "Zhekai Zhang", "Song Han"), 2020, "ICLR", "arXiv:1908.09791",
    ),
    "ito2023ofa2": Paper(
        "OFA²: A Multi-Objective Perspective for the Once-for-All Neural Architecture Search",
        ("Rafael Claro Ito", "Fernando J. Von Zuben"), 2023, "IJCNN", "arXiv:2303.13683",
    ),
    "ito2024ofa3": Paper(
        "OFA³: Automatic Selection of the Best Non-dominated Sub-networks for Ensembles",
        ("Rafael Claro Ito", "Emely Pujólli da Silva", "Fernando J. Von Zuben"), 2024, "IJCNN",
        "doi:10.1109/IJCNN60899.2024.10650685",
    ),
    "howard2019searching": Paper(
        "Searching for MobileNetV3",
        ("Andrew Howard", "Mark Sandler", "Grace Chu", "Liang-Chieh Chen", "Bo Chen", "Mingxing Tan", "Weijun Wang",
         "Yukun Zhu",
         "Ruoming Pang", "Vijay Vasudevan", "Quoc V. Le", "Hartwig Adam"), 2019, "ICCV", "arXiv:1905.02244",
    ),
    "cai2019proxylessnas": Paper(
        "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware",
        ("Han Cai", "Ligeng Zhu", "Song Han"), 2019, "ICLR", "arXiv:1812.00332",
    ),
    "he2016deep": Paper(
        "Deep Residual Learning for Image Recognition",
        ("Kaiming He", "Xiangyu Zhang", "Shaoqing Ren", "Jian Sun"), 2016, "CVPR", "arXiv:1512.03385",
    ),
    "he2019bag": Paper(
        "Bag of Tricks for Image Classification with Convolutional Neural Networks",
        ("Tong He", "Zhi Zhang", "Hang Zhang", "Zhongyue Zhang", "Junyuan Xie", "Mu Li"), 2019, "CVPR", "arXiv:1812.01187",
    ),
    "alpaydin1998optical": Paper(
        "Optical Recognition of Handwritten Digits",
        ("Ethem Alpaydin", "Cenk Kaynak"), 1998, "UCI Machine Learning Repository", "doi:10.24432/C50P49", "misc",
    ),
    "yu2019universally": Paper(
        "Universally Slimmable Networks and Improved Training Techniques",
        ("Jiahui Yu", "Thomas Huang"), 2019, "ICCV", "arXiv:1903.05134",
    ),
    "yu2020bignas": Paper(
        "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
        ("Jiahui Yu", "Pengchong Jin", "Hanxiao Liu", "Gabriel Bender", "Pieter-Jan Kindermans", "Mingxing Tan",
         "Thomas Huang",
         "Xiaodan Song", "Ruoming Pang", "Quoc Le"), 2020, "ECCV", "arXiv:2003.11142",
    ),
    "annavajjala2024deps": Paper(
        "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training",
        ("Aditya Annavajjala", "Alind Khare", "Animesh Agrawal", "Igor Fedorov", "Hugo Latapie", "Myungjin Lee",
         "Alexey Tumanov"), 2024, "ECCV", "arXiv:2407.06167",
    ),
    "sahni2021compofa": Paper(
        "CompOFA: Compound Once-For-All Networks for Faster Multi-Platform Deployment",
        ("Manas Sahni", "Shreya Varshini", "Alind Khare", "Alexey Tumanov"), 2021, "ICLR", "arXiv:2104.12642",
    ),
    "wang2021alphanet": Paper(
        "AlphaNet: Improved Training of Supernets with Alpha-Divergence",
        ("Dilin Wang", "Chengyue Gong", "Meng Li", "Qiang Liu", "Vikas Chandra"), 2021, "ICML", "arXiv:2102.07954",
    ),
    "jordan2024airbench": Paper(
        "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", ("Keller Jordan",), 2024, "arXiv", "arXiv:2404.00498", "misc",
    ),
    "su2021prioritized": Paper(
        "Prioritized Architecture Sampling with Monto-Carlo Tree Search",
        ("Xiu Su", "Tao Huang", "Yanxi Li", "Shan You", "Fei Wang", "Chen Qian", "Changshui Zhang", "Chang Xu"),
        2021, "CVPR", "arXiv:2103.11922",
    ),
    "hinton2015distilling": Paper(
        "Distilling the Knowledge in a Neural Network",
        ("Geoffrey Hinton", "Oriol Vinyals", "Jeff Dean"), 2015, "arXiv", "arXiv:1503.02531", "misc",
    ),
    "loshchilov2017sgdr": Paper(
        "SGDR: Stochastic Gradient Descent with Warm Restarts",
        ("Ilya Loshchilov", "Frank Hutter"), 2017, "ICLR", "arXiv:1608.03983",
    ),
    "goyal2017accurate": Paper(
        "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
        ("Priya Goyal", "Piotr Dollár", "Ross Girshick", "Pieter Noordhuis", "Lukasz Wesolowski", "Aapo Kyrola",
         "Andrew Tulloch", "Yangqing Jia", "Kaiming He"), 2017, "arXiv", "arXiv:1706.02677", "misc",
    ),
    "szegedy2016rethinking": Paper(
        "Rethinking the Inception Architecture for Computer Vision",
        ("Christian Szegedy", "Vincent Vanhoucke", "Sergey Ioffe", "Jonathon Shlens", "Zbigniew Wojna"), 2016, "CVPR",
        "arXiv:1512.00567",
    ),
    "cubuk2020randaugment": Paper(
        "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
        ("Ekin D. Cubuk", "Barret Zoph", "Jonathon Shlens", "Quoc V. Le"), 2020, "NeurIPS", "arXiv:1909.13719",
    ),
    "deb2002fast": Paper(
        "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
        ("Kalyanmoy Deb", "Amrit Pratap", "Sameer Agarwal", "T. Meyarivan"), 2002,
        "IEEE Transactions on Evolutionary Computation", "doi:10.1109/4235.996017", "article",
    ),
    "deb2014evolutionary": Paper(
        "An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated "
        "Sorting Approach, Part I",
        ("Kalyanmoy Deb", "Himanshu Jain"), 2014, "IEEE Transactions on Evolutionary Computation",
        "doi:10.1109/TEVC.2013.2281535", "article",
    ),
    "beume2007smsemoa": Paper(
        "SMS-EMOA: Multiobjective Selection Based on Dominated Hypervolume",
        ("Nicola Beume", "Boris Naujoks", "Michael Emmerich"), 2007, "European Journal of Operational Research",
        "doi:10.1016/j.ejor.2006.08.008", "article",
    ),
    "zitzler2001spea2": Paper(
        "SPEA2: Improving the Strength Pareto Evolutionary Algorithm",
        ("Eckart Zitzler", "Marco Laumanns", "Lothar Thiele"), 2001, "TIK report 103, ETH Zurich",
        "doi:10.3929/ethz-a-004284029", "misc",
    ),
    "cummings2022hardware": Paper(
        "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities",
        ("Daniel Cummings", "Anthony Sarah", "Sharath Nittur Sridhar", "Maciej Szankin", "Juan Pablo Munoz",
         "Sairam Sundaresan"),
        2022, "arXiv", "arXiv:2205.10358", "misc",
    ),
    "akiba2019optuna": Paper(
        "Optuna: A Next-generation Hyperparameter Optimization Framework",
        ("Takuya Akiba", "Shotaro Sano", "Toshihiko Yanase", "Takeru Ohta", "Masanori Koyama"), 2019, "KDD",
        "doi:10.1145/3292500.3330701",
    ),
    "moritz2018ray": Paper(
        "Ray: A Distributed Framework for Emerging AI Applications",
        ("Philipp Moritz", "Robert Nishihara", "Stephanie Wang", "Alexey Tumanov", "Richard Liaw", "Eric Liang",
         "Melih Elibol",
         "Zongheng Yang", "William Paul", "Michael I. Jordan", "Ion Stoica"), 2018, "OSDI", "arXiv:1712.05889",
    ),
    "hoerl1970ridge": Paper(
        "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
        ("Arthur E. Hoerl", "Robert W. Kennard"), 1970, "Technometrics", "doi:10.1080/00401706.1970.10488634", "article",
    ),
    "smola2004tutorial": Paper(
        "A Tutorial on Support Vector Regression",
        ("Alex J. Smola", "Bernhard Schölkopf"), 2004, "Statistics and Computing",
        "doi:10.1023/B:STCO.0000035301.49549.88", "article",
    ),
    "rasmussen2005gaussian": Paper(
        "Gaussian Processes for Machine Learning",
        ("Carl Edward Rasmussen", "Christopher K. I. Williams"), 2005, "MIT Press", "doi:10.7551/mitpress/3206.001.0001",
        "book",
    ),
    "lu2021nat": Paper(
        "Neural Architecture Transfer",
        ("Zhichao Lu", "Gautam Sreekumar", "Erik Goodman", "Wolfgang Banzhaf", "Kalyanmoy Deb",
         "Vishnu Naresh Boddeti"), 2021,
        "IEEE Transactions on Pattern Analysis and Machine Intelligence", "arXiv:2005.05859", "article",
    ),
    "sarti2023neural": Paper(
        "Neural Architecture Transfer 2: A Paradigm for Improving Efficiency in Multi-Objective Neural Architecture Search",
        ("Simone Sarti", "Eugenio Lomurno", "Matteo Matteucci"), 2023, "arXiv preprint", "arXiv:2307.00960", "misc",
    ),
    "friedman2001greedy": Paper(
        "Greedy Function Approximation: A Gradient Boosting Machine",
        ("Jerome H. Friedman",), 2001, "The Annals of Statistics", "doi:10.1214/aos/1013203451", "article",
    ),
    "breiman2001random": Paper(
        "Random Forests", ("Leo Breiman",), 2001, "Machine Learning", "doi:10.1023/A:1010933404324", "article",
    ),
    "cover1967nearest": Paper(
        "Nearest Neighbor Pattern Classification",
        ("Thomas M. Cover", "Peter E. Hart"), 1967, "IEEE Transactions on Information Theory",
        "doi:10.1109/TIT.1967.1053964",
        "article",
    ),
    "guo2017calibration": Paper(
        "On Calibration of Modern Neural Networks",
        ("Chuan Guo", "Geoff Pleiss", "Yu Sun", "Kilian Q. Weinberger"), 2017, "ICML", "arXiv:1706.04599",
    ),
    "caruana2004ensemble": Paper(
        "Ensemble Selection from Libraries of Models",
        ("Rich Caruana", "Alexandru Niculescu-Mizil", "Geoff Crew", "Alex Ksikes"), 2004, "ICML",
        "doi:10.1145/1015330.1015432",
    ),
    "sarti2023enhancing": Paper(
        "Enhancing Once-For-All: A Study on Parallel Blocks, Skip Connections and Early Exits",
        ("Simone Sarti", "Eugenio Lomurno", "Andrea Falanti", "Matteo Matteucci"), 2023, "IJCNN", "arXiv:2302.01888",
    ),
}  # fmt: skip

# By the start of a space's name, since some names end with a width or resolution.
SPACES: dict[str, tuple[str, ...]] = {
    "digits": ("howard2019searching",),
    "ofa_mbv3": ("cai2020once", "howard2019searching"),
    "ofav2_mbv3": ("sarti2023enhancing", "cai2020once", "howard2019searching"),
    "ofa_proxyless": ("cai2020once", "cai2019proxylessnas"),
    "nas_bench_macro": ("su2021prioritized",),
    "ofa_resnet50": ("cai2020once", "he2016deep", "he2019bag"),
}

_MEASURED = ("deb2002fast", "akiba2019optuna")

# For each setting that names an entry of an open list, the papers of every name.
SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "search.algorithm": {
        "default": _MEASURED,
        "nsga2": _MEASURED,
        "nsga3": ("deb2014evolutionary", "akiba2019optuna"),
        "sms-emoa": ("beume2007smsemoa", "akiba2019optuna"),
        "spea2": ("zitzler2001spea2", "akiba2019optuna"),
        "guided": ("cummings2022hardware", "rasmussen2005gaussian"),
        "random": (),
        "optuna:NSGAIISampler": _MEASURED,
        "optuna:NSGAIIISampler": ("deb2014evolutionary", "akiba2019optuna"),
    },
    "search.predicted_algorithm": {
        "default": (),
        "archive": (),
        "nsga2": ("deb2002fast", "ito2023ofa2"),
        "nsga3": ("deb2014evolutionary", "ito2023ofa2"),
        "sms-emoa": ("beume2007smsemoa", "ito2023ofa2"),
        "spea2": ("zitzler2001spea2", "ito2023ofa2"),
        "evolution": ("cai2020once",),
        "random": (),
    },
    "fit.predictor": {
        "default": (),
        "ridge": ("hoerl1970ridge",),
        "residual": ("hoerl1970ridge", "smola2004tutorial"),
        "gp": ("rasmussen2005gaussian",),
        "svr": ("smola2004tutorial",),
        "rbf": ("lu2021nat",),
        "boosting": ("friedman2001greedy",),
        "forest": ("breiman2001random",),
        "mlp": ("cai2020once",),
        "knn": ("cover1967nearest",),
    },
    "ensemble.algorithm": {
        "default": (),
        "greedy": ("caruana2004ensemble",),
        "exhaustive": (),
        "nsga2": ("ito2024ofa3", "deb2002fast"),
        "sms-emoa": ("ito2024ofa3", "beume2007smsemoa"),
        "spea2": ("ito2024ofa3", "zitzler2001spea2"),
    },
    "ensemble.vote": {"soft": ("ito2024ofa3",), "hard": (), "weighted": ()},
    "ensemble.costs": {"max": ("ito2024ofa3",), "sum": ("ito2024ofa3",)},
    "data.source": {"digits": ("alpaydin1998optical",)},
}

# The papers of settings that are switched on.
SWITCHES: tuple[tuple[str, Callable[[Experiment], object], tuple[str, ...]], ...] = (
    ("train.phases", lambda c: len(c.train.phases) > 1, ("cai2020once",)),
    ("train.phases sandwich", lambda c: any(p.sandwich for p in c.train.phases), ("yu2019universally", "yu2020bignas")),
    ("train.phases ramp_epochs", lambda c: any(p.ramp_epochs for p in c.train.phases), ("annavajjala2024deps",)),
    ("train.phases coupled", lambda c: any(p.coupled for p in c.train.phases), ("sahni2021compofa",)),
    ("train.phases distil", lambda c: any(p.distil for p in c.train.phases), ("hinton2015distilling",)),
    ("train.phases lr", lambda c: c.train.phases, ("loshchilov2017sgdr",)),
    ("train.lr_batch", lambda c: c.train.lr_batch, ("goyal2017accurate",)),
    ("train.label_smoothing", lambda c: c.train.label_smoothing, ("szegedy2016rethinking",)),
    ("train.zero_last_gamma", lambda c: c.train.zero_last_gamma, ("yu2020bignas",)),
    ("train.distil_loss", lambda c: c.train.distil_loss == "alpha", ("wang2021alphanet",)),
    ("data.alternating_flip", lambda c: c.data.alternating_flip, ("jordan2024airbench",)),
    ("data.randaugment", lambda c: c.data.randaugment, ("cubuk2020randaugment",)),
    ("adapt", lambda c: c.adapt.iterations, ("lu2021nat", "sarti2023neural")),
    ("search", lambda c: True, ("ito2023ofa2",)),
    ("ensemble", lambda c: True, ("ito2024ofa3",)),
    ("ensemble.calibrate", lambda c: c.ensemble.calibrate, ("guo2017calibration",)),
    ("ray", lambda c: True, ("moritz2018ray",)),
)  # fmt: skip


def of_space(name: str) -> tuple[str, ...]:
    """Keys of the papers of a space, by the longest known start of its name; () if none is known."""
    starts = [start for start in SPACES if name.startswith(start)]
    return SPACES[max(starts, key=len)] if starts else ()


def _values(config: Experiment, setting: str) -> tuple[str, ...]:
    """The names in a setting: most have one, `ensemble.costs` several."""
    value: Any = config
    for part in setting.split("."):
        value = getattr(value, part)
    return (value,) if isinstance(value, str) else tuple(value)


def uses(config: Experiment) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The methods of a config, such as "search.algorithm nsga2", each with the keys of its papers."""
    yield f"space {config.space}", of_space(config.space)
    yield from ((setting, keys) for setting, used, keys in SWITCHES if used(config))
    for setting, sources in SOURCES.items():
        for name in _values(config, setting):
            others = ("akiba2019optuna",) if name.startswith("optuna:") else ()  # samplers that are not in the list
            yield f"{setting} {name}", sources.get(name, others)


def cited(config: Experiment) -> Mapping[str, list[str]]:
    """The keys of the papers behind a config, each with the methods that it is cited for; in the order of `PAPERS`."""
    found: dict[str, list[str]] = {}
    for use, keys in uses(config):
        for key in keys:
            found.setdefault(key, []).append(use)
    return {key: found[key] for key in PAPERS if key in found}
