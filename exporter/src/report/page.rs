//! The page: sections of figures with tables beneath, a list of them, and the style sheet. What is
//! in the sections, `mod.rs` and the files that it calls say.

use std::fmt::Write as _;

use super::chart::{Drawing, outline};
use super::html::escape;
use super::palette::{dark_rules, hex, series};

/// A page as it is written.
#[derive(Debug, Default)]
pub(super) struct Page {
    body: String,
    sections: Vec<String>,
    figures: usize,
}

impl Page {
    /// Begins a section.
    pub(super) fn section(&mut self, title: &str, about: &str) {
        if !self.sections.is_empty() {
            self.body.push_str("</section>\n");
        }
        self.sections.push(title.to_owned());
        let n = self.sections.len();
        let (title, about) = (escape(title), escape(about));
        let _ = writeln!(self.body, "<section id=\"s{n}\"><h2>{title}</h2>\n<p class=\"about\">{about}</p>");
    }

    /// HTML as it is.
    pub(super) fn raw(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// Figures side by side where the window is wide enough.
    pub(super) fn row(&mut self, figures: &[(String, String, Drawing)]) {
        self.raw("<div class=\"row\">\n");
        for (title, description, drawing) in figures {
            self.figure(title, description, drawing);
        }
        self.raw("</div>\n");
    }

    /// A figure. Its title is above it, its description is read out in its place.
    pub(super) fn figure(&mut self, title: &str, description: &str, drawing: &Drawing) {
        self.figures += 1;
        let n = self.figures;
        let (title, description) = (escape(title), escape(description));
        let Drawing { width, height, body } = drawing;
        let _ = writeln!(
            self.body,
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" aria-labelledby=\"f{n}t f{n}d\">\n<title id=\"f{n}t\">{title}</title>\
             <desc id=\"f{n}d\">{description}</desc>\n{body}</svg></figure>"
        );
    }

    /// What the colours and shapes of the figures stand for.
    pub(super) fn legend(&mut self, names: &[&str]) {
        self.raw("<ul class=\"legend\">");
        for (style, name) in names.iter().enumerate() {
            let colour = hex(series(style));
            let mark = match outline(style) {
                None => format!("<circle r=\"5\" fill=\"{colour}\"/>"),
                Some(points) => {
                    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
                    format!("<polygon points=\"{}\" fill=\"{colour}\"/>", points.join(" "))
                }
            };
            let name = escape(name);
            let _ = write!(
                self.body,
                "<li><svg viewBox=\"-8 -8 16 16\" width=\"16\" height=\"16\" aria-hidden=\"true\">{mark}</svg> {name}</li>"
            );
        }
        self.raw("</ul>\n");
    }

    /// The whole page, under a title.
    pub(super) fn finish(mut self, title: &str, about: &str) -> String {
        if !self.sections.is_empty() {
            self.body.push_str("</section>\n");
        }
        let title = escape(title);
        let links: String = self
            .sections
            .iter()
            .enumerate()
            .map(|(i, name)| format!("<li><a href=\"#s{}\">{}</a></li>", i + 1, escape(name)))
            .collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{}@media screen and (prefers-color-scheme: dark){{\n{}}}\n</style></head>\n\
             <body><header><h1>{title}</h1><p>{}</p>\n<nav aria-label=\"Sections\"><ul>{links}</ul></nav></header>\n\
             <main>\n{}</main></body></html>\n",
            include_str!("style.css"),
            dark_rules(),
            escape(about),
            self.body,
        )
    }
}
