# Estimated marginal means, contrasts and trends by emmeans on fits by lme4, and Tukey's and Dunnett's distributions.
#
#   python -c "import lmm; lmm.datasets.load('Oats').to_csv('Oats.csv', index=False)"
#   Rscript make_emmeans.R > emmeans.json          (writes unbalanced.csv beside it)
#
# The other data sets are lme4's own, or simulated here. pbkrtest leaves prior weights out of the covariance of the responses: the
# model with weights has Satterthwaite's degrees of freedom.
suppressMessages({library(lme4); library(emmeans); library(jsonlite)})
emm_options(msg.interaction = FALSE, msg.nesting = FALSE)
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
gtight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13, optCtrl = list(rhoend = 1e-10, maxfun = 1e5))

Oats <- read.csv("Oats.csv", stringsAsFactors = TRUE)
data(Machines, package = "nlme")
Machines <- data.frame(Worker = factor(as.character(Machines$Worker)), Machine = factor(as.character(Machines$Machine)), score = Machines$score)
set.seed(20)
n <- 150
d <- data.frame(g = sample(12, n, TRUE), a = sample(c("p", "q", "r"), n, TRUE, c(.5, .3, .2)), b = sample(c("u", "v"), n, TRUE, c(.7, .3)),
                x = round(rnorm(n, 2), 3), z = rbinom(n, 1, .4), w = round(runif(n, .5, 2), 3), e = round(rexp(n) + .5, 3))
eff <- rnorm(12)
mu <- 1 + (d$a == "q") - .5 * (d$b == "v") + .8 * (d$a == "r") * (d$b == "v") + .4 * d$x + .3 * d$z + eff[d$g]
d$y <- round(mu + rnorm(n) / sqrt(d$w), 4)
d$count <- rpois(n, d$e * exp(mu / 3))
d$k <- rpois(n, 4) + 1
d$s <- rbinom(n, d$k, plogis(mu - 2.5))
write.csv(d, "unbalanced.csv", row.names = FALSE, quote = FALSE)
d <- read.csv("unbalanced.csv", stringsAsFactors = TRUE)
d$g <- factor(d$g)
hole <- droplevels(subset(d, !(a == "r" & b == "v")))

models <- list(
  cake = lmer(angle ~ recipe * temperature + (1 | recipe:replicate), transform(cake, temperature = factor(temperature, ordered = FALSE)), control = tight),
  cake_numeric = lmer(angle ~ recipe * temp + (1 | recipe:replicate), cake, control = tight),
  oats = lmer(yield ~ Variety + factor(nitro) + (1 | Block/Variety), Oats, control = tight),
  machines = lmer(score ~ Machine + (Machine | Worker), Machines, control = tight),
  unbalanced = lmer(y ~ a * b + x + (1 | g), d, control = tight),
  weighted = lmer(y ~ a * b + x + (1 | g), d, weights = w, control = tight),
  curved = lmer(y ~ a + poly(x, 2) + log(e) + (1 | g), d, control = tight),
  two_values = lmer(y ~ a * z + (1 | g), d, control = tight),
  hole = suppressMessages(lmer(y ~ a * b + (1 | g), hole, control = tight)),
  cbpp = glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, control = gtight),
  probit = glmer(cbind(s, k - s) ~ a * b + x + (1 | g), d, binomial(link = "probit"), control = gtight),
  counts = glmer(count ~ a * b + x + offset(log(e)) + (1 | g), d, poisson, control = gtight),
  counts_argument = glmer(count ~ a * b + x + (1 | g), d, poisson, offset = log(e), control = gtight)
)
# model, specs, by, arguments of emmeans, contrast method, arguments of contrast
case <- function(model, specs, by = NULL, contrast = NULL, ...) list(model = model, specs = specs, by = by, contrast = contrast, ...)
cases <- list(
  cake_recipe = case("cake", "recipe"), cake_by = case("cake", "recipe", "temperature"),
  cake_both = case("cake", c("recipe", "temperature")), cake_pairs = case("cake", "recipe", "temperature", "pairwise"),
  cake_poly = case("cake", "temperature", contrast = "poly"), cake_six = case("cake", "temperature", contrast = "pairwise"),
  cake_at = case("cake_numeric", "recipe", "temp", at = list(temp = c(180, 200))), cake_covariate = case("cake_numeric", "recipe"),
  oats_nitro = case("oats", "nitro"), oats_pairs = case("oats", "nitro", contrast = "pairwise"),
  oats_ctrl = case("oats", "nitro", contrast = "trt.vs.ctrl"), oats_eff = case("oats", "nitro", contrast = "eff"),
  oats_holm = case("oats", "nitro", contrast = "consec", adjust = "holm"),
  oats_bonferroni = case("oats", "nitro", contrast = "pairwise", adjust = "bonferroni"),
  oats_sidak = case("oats", "nitro", contrast = "pairwise", adjust = "sidak"), oats_none = case("oats", "Variety", contrast = "pairwise", adjust = "none"),
  machines_kr = case("machines", "Machine"), machines_pairs = case("machines", "Machine", contrast = "pairwise"),
  machines_satterthwaite = case("machines", "Machine", contrast = "pairwise", ddf = "satterthwaite"),
  machines_z = case("machines", "Machine", contrast = "pairwise", ddf = "asymptotic"),
  unbalanced_a = case("unbalanced", "a"), unbalanced_proportional = case("unbalanced", "a", weights = "proportional"),
  unbalanced_by = case("unbalanced", "a", "b", "pairwise"), unbalanced_cells = case("unbalanced", c("a", "b"), contrast = "pairwise", ddf = "satterthwaite"),
  weighted_a = case("weighted", "a", contrast = "pairwise", ddf = "satterthwaite"), weighted_proportional = case("weighted", "a", weights = "proportional", ddf = "satterthwaite"),
  curved_a = case("curved", "a"), curved_x = case("curved", "x", at = list(x = c(1, 2.5)), contrast = "pairwise"),
  two_values_a = case("two_values", "a"), two_values_z = case("two_values", "z", contrast = "pairwise"),
  hole_a = case("hole", "a"), hole_cells = case("hole", c("a", "b")), hole_pairs = case("hole", "a", contrast = "pairwise", adjust = "none"),
  cbpp_link = case("cbpp", "period"), cbpp_response = case("cbpp", "period", type = "response"),
  cbpp_pairs = case("cbpp", "period", contrast = "pairwise"), cbpp_odds = case("cbpp", "period", contrast = "pairwise", type = "response"),
  probit_response = case("probit", "a", type = "response"), probit_pairs = case("probit", "a", contrast = "pairwise", type = "response"),
  counts_response = case("counts", "a", "b", type = "response"), counts_ratio = case("counts", "a", "b", "pairwise", type = "response"),
  counts_link = case("counts", "a"), counts_argument_link = case("counts_argument", "a"),
  trend = case("cake_numeric", "recipe", trend = "temp"), trend_pairs = case("cake_numeric", "recipe", trend = "temp", contrast = "pairwise"),
  trend_curved = case("curved", "a", trend = "x")
)
modes <- c(kenward_roger = "kenward-roger", satterthwaite = "satterthwaite", asymptotic = "asymptotic")
table <- function(case) {
  model <- models[[case$model]]
  linear <- inherits(model, "lmerModLmerTest") || inherits(model, "lmerMod")
  arguments <- list(model, case$specs, by = case$by)
  if (linear) arguments$lmer.df <- unname(modes[if (is.null(case$ddf)) "kenward_roger" else case$ddf])
  for (name in c("at", "weights")) if (!is.null(case[[name]])) arguments[[name]] <- case[[name]]
  if (!is.null(case$trend)) arguments <- c(arguments, list(var = case$trend, delta.var = 1e-5))  # its slopes are forward differences
  found <- do.call(if (is.null(case$trend)) emmeans else emtrends, arguments)
  if (!is.null(case$contrast)) {
    more <- list(found, case$contrast)
    if (!is.null(case$adjust)) more$adjust <- case$adjust
    found <- do.call(contrast, more)
  }
  type <- if (is.null(case$type)) "link" else case$type
  rows <- as.data.frame(summary(found, type = type, infer = c(TRUE, TRUE)))
  rows[] <- lapply(rows, function(v) if (is.numeric(v)) ifelse(is.infinite(v), NA, v) else as.character(v))
  list(case = case, rows = as.list(rows))
}
out <- suppressMessages(lapply(cases, table))
q <- expand.grid(q = c(.2, 1, 2.5, 3.7, 6, 12), k = c(2, 3, 5.5, 10, 40), df = c(2, 4.3, 17, 150, Inf))
tukey <- list(q = q$q, k = q$k, df = ifelse(is.finite(q$df), q$df, NA), upper = mapply(ptukey, q$q, q$k, q$df, lower.tail = FALSE))
r <- expand.grid(level = c(.5, .9, .95, .99), k = c(2, 3, 6, 12), df = c(4.3, 17, 150, Inf))
quantiles <- list(level = r$level, k = r$k, df = ifelse(is.finite(r$df), r$df, NA), q = mapply(qtukey, r$level, r$k, r$df))
cat(toJSON(list(emmeans = as.character(packageVersion("emmeans")), cases = out, tukey = tukey, quantiles = quantiles),
           auto_unbox = TRUE, digits = NA, null = "null", na = "null", pretty = FALSE))
