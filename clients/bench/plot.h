/* Plots as inline SVG: axes from 0 with round ticks, lines, bars, spans. Colours come from the page's style sheet, by
 * the classes c0.. of what is drawn. */
#ifndef SK_PLOT_H
#define SK_PLOT_H
#include "comm/base/buf.h"

struct sk_plot {
    struct sk_buf *b;
    double x_max, y_max; /* > 0 after begin */
};

/* `title` is also what screen readers say. */
void sk_plot_begin(struct sk_plot *p, struct sk_buf *b, const char *title, const char *x_label, const char *y_label);
void sk_plot_axes(struct sk_plot *p, double x_max, double y_max); /* once, before what is drawn */
void sk_plot_line(struct sk_plot *p, int colour, const double *x, const double *y, int n);
void sk_plot_bar(struct sk_plot *p, int colour, double x0, double x1, double y);
/* A horizontal stroke at height y, `thick` in units of y. */
void sk_plot_span(struct sk_plot *p, const char *class, double x0, double x1, double y, double thick);
void sk_plot_end(struct sk_plot *p);
/* A line of names and their colours, under a plot. */
void sk_plot_legend(struct sk_buf *b, const char *const *names, const char *const *classes, int n);

double sk_plot_tick(double max); /* a distance of 1, 2 or 5 times a power of ten that divides 0..max into 3 to 8 */
void sk_plot_escape(struct sk_buf *b, const char *s); /* any text as HTML */

#endif
