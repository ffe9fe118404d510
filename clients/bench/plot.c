#include "clients/bench/plot.h"

#include <math.h>

enum { WIDTH = 720, HEIGHT = 260, LEFT = 62, RIGHT = 14, TOP = 10, BOTTOM = 42 };

void sk_plot_escape(struct sk_buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            sk_buf_str(b, "&lt;");
        else if (*s == '>')
            sk_buf_str(b, "&gt;");
        else if (*s == '&')
            sk_buf_str(b, "&amp;");
        else if (*s == '"')
            sk_buf_str(b, "&quot;");
        else
            sk_buf_char(b, *s);
    }
}

double sk_plot_tick(double max)
{
    double unit = pow(10, floor(log10(max)));
    double m = max / unit;
    return unit * (m <= 1.5 ? 0.2 : m <= 3.5 ? 0.5 : m <= 7 ? 1 : 2);
}

static double at_x(const struct sk_plot *p, double x)
{
    return LEFT + x / p->x_max * (WIDTH - LEFT - RIGHT);
}

static double at_y(const struct sk_plot *p, double y)
{
    return HEIGHT - BOTTOM - y / p->y_max * (HEIGHT - TOP - BOTTOM);
}

void sk_plot_begin(struct sk_plot *p, struct sk_buf *b, const char *title, const char *x_label, const char *y_label)
{
    *p = (struct sk_plot){.b = b};
    sk_buf_str(b, "<figure><figcaption>");
    sk_plot_escape(b, title);
    sk_buf_fmt(b, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", WIDTH, HEIGHT);
    sk_plot_escape(b, title);
    sk_buf_fmt(b, "</title>\n<text x=\"%d\" y=\"%d\" class=\"m\">", (WIDTH + LEFT - RIGHT) / 2, HEIGHT - 6);
    sk_plot_escape(b, x_label);
    sk_buf_fmt(b, "</text><text transform=\"translate(13 %d) rotate(-90)\" class=\"m\">", (HEIGHT - BOTTOM + TOP) / 2);
    sk_plot_escape(b, y_label);
    sk_buf_str(b, "</text>\n");
}

void sk_plot_axes(struct sk_plot *p, double x_max, double y_max)
{
    p->x_max = x_max > 0 ? x_max : 1;
    p->y_max = y_max > 0 ? y_max * 1.05 : 1;
    double dx = sk_plot_tick(p->x_max), dy = sk_plot_tick(p->y_max);
    for (double y = 0; y <= p->y_max; y += dy)
        sk_buf_fmt(p->b, "<path class=\"g\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"e\">%g</text>\n", LEFT,
                   at_y(p, y), WIDTH - RIGHT, LEFT - 6, at_y(p, y) + 4, y);
    for (double x = 0; x <= p->x_max; x += dx)
        sk_buf_fmt(p->b, "<text x=\"%.1f\" y=\"%d\" class=\"m\">%g</text>\n", at_x(p, x), HEIGHT - BOTTOM + 16, x);
}

void sk_plot_line(struct sk_plot *p, int colour, const double *x, const double *y, int n)
{
    sk_buf_fmt(p->b, "<path class=\"l c%d\" d=\"", colour);
    for (int i = 0; i < n; i++)
        sk_buf_fmt(p->b, "%c%.1f %.1f", i ? 'L' : 'M', at_x(p, x[i]), at_y(p, y[i]));
    sk_buf_str(p->b, "\"/>\n");
    for (int i = 0; i < n && n <= 64; i++)
        sk_buf_fmt(p->b, "<circle class=\"f%d\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"><title>%g: %.4g</title></circle>\n",
                   colour, at_x(p, x[i]), at_y(p, y[i]), x[i], y[i]);
}

void sk_plot_bar(struct sk_plot *p, int colour, double x0, double x1, double y)
{
    if (y > 0)
        sk_buf_fmt(p->b,
                   "<path class=\"f%d\" d=\"M%.1f %.1fV%.1fH%.1fV%.1fz\"><title>%.4g to %.4g: %.6g</title></path>\n",
                   colour, at_x(p, x0), at_y(p, 0), at_y(p, y), at_x(p, x1), at_y(p, 0), x0, x1, y);
}

void sk_plot_span(struct sk_plot *p, const char *class, double x0, double x1, double y, double thick)
{
    double width = at_y(p, 0) - at_y(p, thick);
    sk_buf_fmt(p->b, "<path class=\"%s\" d=\"M%.1f %.1fH%.1f\" stroke-width=\"%.2f\"/>", class, at_x(p, x0), at_y(p, y),
               fmax(at_x(p, x1), at_x(p, x0) + 0.5), width);
}

void sk_plot_end(struct sk_plot *p)
{
    sk_buf_str(p->b, "</svg></figure>\n");
}

void sk_plot_legend(struct sk_buf *b, const char *const *names, const char *const *classes, int n)
{
    sk_buf_str(b, "<p class=\"legend\">");
    for (int i = 0; i < n; i++)
        sk_buf_fmt(b,
                   "<svg viewBox=\"0 0 20 10\" aria-hidden=\"true\"><path class=\"%s\" d=\"M0 5H20\" "
                   "stroke-width=\"6\"/></svg>%s ",
                   classes[i], names[i]);
    sk_buf_str(b, "</p>\n");
}
