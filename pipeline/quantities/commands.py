r"""Names of LaTeX commands, without the backslash.

They are used to decide whether `\times` in a JSON string is the command, or a tab (`\t`) followed by "imes".
"""

from __future__ import annotations

_GREEK = """
alpha beta chi Delta delta epsilon eta Gamma gamma iota kappa Lambda lambda mu nu Omega omega omicron phi Phi
pi Pi Psi psi rho sigma Sigma tau theta Theta upsilon Upsilon varepsilon varphi varpi varrho varsigma vartheta
Xi xi zeta
"""
_BEGINNING_WITH_N = """
nabla natural ncong ne nearrow neg negmedspace negthickspace negthinspace neq nequiv newcommand newline newpage
nexists ngeq ngeqslant ngtr ni nicefrac nleftarrow
nLeftarrow nLeftrightarrow nleftrightarrow nleq nleqslant nless nmid nobreak nobreakspace noindent nolimits
nonumber norm normalfont normalsize not notag notin nparallel nprec npreceq nrightarrow nRightarrow nsim
nsubset nsubseteq nsucc nsucceq nsupset nsupseteq ntriangleleft ntrianglelefteq ntriangleright
ntrianglerighteq nu num nVdash nvdash nwarrow
"""
_BEGINNING_WITH_R = """
raggedleft raggedright raise raisebox rangle rank rbrace rbrack rceil ref relax renewcommand resizebox restriction
rfloor rgroup rhd rho right rightangle rightarrow rightarrowtail rightharpoondown rightharpoonup
rightleftarrows rightleftharpoons rightrightarrows rightsquigarrow rightthreetimes risingdotseq rlap rm
rmfamily rmoustache root rotatebox rtimes rule rVert rvert
"""
_BEGINNING_WITH_T = """
tabular tabularnewline tag tan tanh tau tbinom tdots text textasciicircum textasciitilde textbackslash textbf
textbullet textcircled textcolor textdegree textdollar textgreater textit textless textmd textnormal
textquotesingle textrm textsc textsf textsl textstyle textsubscript textsuperscript texttt textup tfrac tg th
therefore theta thetasym thickapprox thicksim thickspace thinspace tilde times tiny to top toprule triangle
triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq tt twoheadleftarrow
twoheadrightarrow
"""
_OTHERS = """
aleph Alpha amalg and angle approx approxeq arccos arcsin arctan arg array arrow ast asymp atop backslash bar
Bbb because begin beth between big Big bigcap bigcirc bigcup Bigg bigg Biggl biggl Biggr biggr bigl Bigl
bigodot bigoplus bigotimes bigr Bigr bigsqcup bigstar bigtriangledown bigtriangleup biguplus bigvee bigwedge
binom blacksquare blacktriangle bm bmod boldmath boldsymbol bot bowtie Box boxed boxplus boxtimes breve bullet
cal cancel Cap cap cdot cdotp cdots cellcolor centerdot centering cfrac check circ circle circledast cline
clubsuit colon color cong coprod cos cosh cot coth cref csc cup Cup curlyvee curlywedge dagger dbinom ddagger
ddot ddots def deg det dfrac Diamond diamond diamondsuit dim displaystyle div dot doteq dots dotsb dotsc dotsm
downarrow Downarrow ell else emph empty emptyset end enspace eqref equiv eth exists exp fbox flat footnote
footnotesize forall frac frown gcd ge geq geqslant gets gg ggg gimel grave gt gtrsim hat hbar hbox heartsuit
hfill hline hom hookleftarrow hookrightarrow hphantom hskip hspace huge iff iiint iint Im imath implies in
includegraphics indent inf infty int intercal intertext it item jmath ker label land langle large lbrace
lbrack lceil ldots le left Leftarrow leftarrow leftharpoonup leftrightarrow Leftrightarrow leq leqslant
lessgtr lesssim let lfloor lg lgroup lhd lim liminf limits limsup linebreak ll llbracket ln lnot log
longleftarrow Longleftarrow Longleftrightarrow longleftrightarrow longmapsto Longrightarrow longrightarrow lor
Lsh lt lVert lvert makebox mapsto mathbb mathbf mathbin mathcal mathclap mathclose mathfrak mathit mathnormal
mathop mathopen mathord mathrel mathring mathrm mathscr mathsf mathstrut mathtt max mbox measuredangle mid
middle min mod models mp multicolumn multirow odot oint ominus on operatorname oplus oslash otimes over
overbrace overleftarrow overleftrightarrow overline overrightarrow overset parallel partial perp phantom
pitchfork pm pmatrix pmod pounds Pr prec preceq prime prod projlim propto qed qquad quad Re Rightarrow Rsh
scriptscriptstyle scriptsize scriptstyle searrow sec setminus sharp shortmid sim simeq sin sinh sl small
smallsetminus smash smile spadesuit sphericalangle sqcap sqcup sqrt sqsubset sqsubseteq square stackrel star
subset subseteq subsetneq substack succ succeq sum sup supset supseteq surd swarrow tfrac underbrace underline
underset Uparrow uparrow Updownarrow updownarrow uplus varnothing vcenter vDash vdash vdots vec vee veebar
vert Vert vphantom vspace wedge widehat widetilde wp wr xleftarrow xrightarrow
"""

COMMANDS = frozenset(
    " ".join((_GREEK, _BEGINNING_WITH_N, _BEGINNING_WITH_R, _BEGINNING_WITH_T, _OTHERS)).split()
)
"""Commands of LaTeX and of its common mathematics packages."""

ALSO_WORDS = frozenset(
    """ne near neg neq nearrow nexists ni nless nmid not nparallel nprec nsim nsubset nsucc nsupset nu num norm nleq
    tan th to top tg""".split()
)
r"""Commands that may also be a line break or tab followed by a word: `\nless`, or a line break (`\n`) and "less"."""
