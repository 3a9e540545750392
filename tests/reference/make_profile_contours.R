# Joint likelihood regions of pairs of parameters as lme4 draws them (splom of a profile), for the sleepstudy model by maximum likelihood.
#
#   Rscript make_profile_contours.R > profile_contours.json
#
# The lines up to cont() are those of lme4:::splom.thpr; cont() interpolates from the profile traces.
suppressMessages({library(lme4); library(jsonlite); library(splines)})
m <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE)
x <- profile(m, signames = FALSE)
levels <- sqrt(qchisq(c(.50, .80, .95), 2))
spl <- attr(x, "forward")
pairs <- list(c("sd_(Intercept)|Subject", "cor_Days.(Intercept)|Subject"), c("sigma", "sd_Days|Subject"), c("(Intercept)", "sd_(Intercept)|Subject"))
out <- lapply(pairs, function(nms) {
  fr <- as.data.frame(x)[, c(nms, ".par")]
  for (nm in nms) fr[[nm]] <- lme4:::predy(spl[[nm]], fr[[nm]])
  fri <- fr[fr$.par == nms[1], ]
  frj <- fr[fr$.par == nms[2], ]
  sij <- interpSpline(fri[, 1], fri[, 2])
  sji <- interpSpline(frj[, 2], frj[, 1])
  ll <- lme4:::cont(sij, sji, levels)
  list(pair = nms, levels = levels, points = lapply(seq_along(levels), function(k) ll$pts[k, , ]))
})
cat(toJSON(out, digits = 8, auto_unbox = TRUE), "\n")
