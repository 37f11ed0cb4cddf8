"""Mend what an English parser gets wrong in captions, before the rules read the tree."""

from __future__ import annotations

from stillroom.filter.labels import is_label, modifies, read_label, surely_acts
from stillroom.filter.tree import NOUNS, SUBJECTS, Node, conjuncts, gerund_lemma, kids, link, sentences
from stillroom.filter.words import COLLECTIVES, ING_NOUNS, PURPOSE_NOUNS, word_set

HELPERS = ("be", "have", "do", "get", "'s", "’s", "'ve", "'re", "'m", "ai")
MODIFIER_DEPS = ("amod", "compound", "nmod")
# The Penn tags of words that are no verbs, modals (MD) aside.
NO_VERB_FORMS = word_set(
    "$ '' , -LRB- -RRB- . : `` # ADD AFX CC CD DT EX FW GW HYPH IN JJ JJR JJS LS NFP NIL NN NNP NNPS NNS PDT POS PRP "
    "PRP$ RB RBR RBS RP SYM TO UH WDT WP WP$ WRB XX _SP"
)


def repair_english(nodes: list[Node]) -> list[Node]:
    """Repair the tree in place and return it: modals that are nouns, labels, gerunds and false verbs."""
    for node in nodes:  # "the door is closed": a subject sometimes hangs on the auxiliary
        if node.dep in SUBJECTS and nodes[node.head].dep in ("aux", "auxpass"):
            node.head = nodes[node.head].head
    link(nodes)
    _detach_hashtags(nodes)
    for sentence in list(sentences(nodes)):
        _name_modals(nodes, sentence)
        for node in sentence:
            _name_tools(nodes, node)
        if is_label(nodes, sentence):
            verbs = [n for n in sentence if n.pos == "VERB" and n.dep not in MODIFIER_DEPS]
            if not any(surely_acts(nodes, verb) for verb in verbs):
                read_label(sentence)
                continue
        for node in sentence:
            _wake_gerund(nodes, node)
            _repair_verb(nodes, node)
            _repair_list(nodes, node)
    return link(nodes)


def _detach_hashtags(nodes: list[Node]) -> None:
    """Hashtags behind a caption are no part of its last clause: "A boy kicks a ball #football"."""
    words = [n for n in nodes if n.pos != "SPACE"]
    while len(words) > 1 and words[-2].text == "#" and not words[-2].space:
        words[-1].dep = words[-2].dep = "dep"
        words = words[:-2]


def _name_tools(nodes: list[Node], gerund: Node) -> None:
    """An -ing form before the noun whose purpose it tells is part of the compound: "shopping cart", "frying pan"."""
    after = nodes[gerund.i + 1] if gerund.i + 1 < len(nodes) else None
    if gerund.form != "VBG" or gerund.pos != "VERB" or after is None or after.lemma not in PURPOSE_NOUNS:
        return
    if gerund.dep not in MODIFIER_DEPS:
        if not modifies(nodes, gerund):
            return
        _swap(nodes, gerund)
    gerund.pos, gerund.form, gerund.dep, gerund.lemma = "NOUN", "NN", "compound", gerund.word


def _name_modals(nodes: list[Node], sentence: list[Node]) -> None:
    """A modal that helps no verb is a noun ("pop can"), and only few verbs help another (not "stop" in "stop sign")."""
    for node in sentence:
        if node.pos == "AUX" and node.form != "MD" and node.lemma not in HELPERS:
            node.pos, node.dep = "X" if node.form in NO_VERB_FORMS else "VERB", "dep"
        if node.pos == "AUX" and node.form == "MD" and node.dep not in ("aux", "conj"):
            node.pos, node.form, node.lemma = "NOUN", "NN", node.word
            for kid in kids(nodes, node, "nsubj"):
                kid.dep = "compound"


def _wake_gerund(nodes: list[Node], noun: Node) -> None:
    """Make a verb of an -ing noun between a noun with article and a complement: "a zebra grazing on grass"."""
    if noun.form != "NN" or not may_wake(noun.word) or noun.i < 2:
        return
    before = nodes[noun.i - 1]
    led = before.dep == "compound" and before.head == noun.i and before.form in ("NN", "NNS")
    article = any(k.i < before.i for k in kids(nodes, noun, "det")) or noun.dep == "conj"
    complement = any(k > noun.i and nodes[k].dep == "prep" and nodes[k].word != "of" for k in noun.kids)
    if led and article and complement:
        noun.pos, noun.form, noun.lemma = "VERB", "VBG", gerund_lemma(noun.word)
        before.dep = "nsubj"


def may_wake(word: str) -> bool:
    """Whether a word in lower case is one that `_wake_gerund` may take for a verb."""
    return word.endswith("ing") and word not in ING_NOUNS


def _repair_list(nodes: list[Node], node: Node) -> None:
    """In a list with "and" an apposition is a conjunct: "a hat and glasses", "a man, a woman and a child"."""
    if node.dep == "appos" and (kids(nodes, node, "cc") or kids(nodes, nodes[node.head], "cc")):
        node.dep = "conj"


def _repair_verb(nodes: list[Node], verb: Node) -> None:
    if verb.pos != "VERB":
        return
    if modifies(nodes, verb):
        _swap(nodes, verb)
    elif _disagrees(nodes, verb) or _names_thing(nodes, verb):
        verb.pos = "NOUN"
        for kid in kids(nodes, verb, "nsubj"):
            kid.dep = "compound"
    elif verb.form == "VBG" and not kids(nodes, verb, "nsubj", "nsubjpass") and verb.dep in ("ROOT", "attr"):
        before = nodes[verb.i - 1] if verb.i and not verb.starts else None  # "Man Driving Car", "Is the dog barking?"
        if before and before.head == verb.i and before.pos in NOUNS and before.dep != "dobj":
            before.dep = "nsubj"


def _disagrees(nodes: list[Node], verb: Node) -> bool:
    """A plural or base form with one singular subject and nothing acted on is a noun: "brown hair boy face"."""
    if verb.form not in ("VB", "VBP") or verb.dep != "ROOT" or kids(nodes, verb, "aux", "dobj", "neg"):
        return False
    subjects = [n for s in kids(nodes, verb, "nsubj") for n in conjuncts(nodes, s)]
    if len(subjects) != 1 or kids(nodes, subjects[0], "det"):
        return False
    noun = subjects[0]
    return noun.form in ("NN", "NNP") and noun.i == verb.i - 1 and noun.lemma not in COLLECTIVES


def _names_thing(nodes: list[Node], verb: Node) -> bool:
    """A base form that opens the caption and is followed by "with" is a noun: "bench with backrest"."""
    after = nodes[verb.i + 1] if verb.i + 1 < len(nodes) else None
    bare = verb.form in ("VB", "VBP") and verb.dep == "ROOT" and (verb.starts or verb.i == 0)
    return bare and after is not None and after.head == verb.i and after.word == "with"


def _swap(nodes: list[Node], gerund: Node) -> None:
    """Make the gerund a modifier of its object, which takes over its place and its other dependents."""
    noun = next(n for n in kids(nodes, gerund, "dobj") if n.pos in NOUNS)
    noun.dep = "pobj" if gerund.dep == "pcomp" else gerund.dep
    noun.head = noun.i if gerund.head == gerund.i else gerund.head
    for kid in gerund.kids:
        if kid != noun.i:
            nodes[kid].head = noun.i
    gerund.dep, gerund.head = "amod", noun.i
    link(nodes)
