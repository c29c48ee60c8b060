//! What damping does, on every backend.

use super::*;

/// Damped scores move less, those with small gradients above all, and on every backend alike.
#[test]
fn backends_damp_scores_alike() {
    let reference = Reference::read();
    let (_dir, base) = base();
    for granularity in [Granularity::Weight, BLOCK] {
        let scores = if granularity == BLOCK { "scores_block" } else { "scores" };
        let after = |backend, damping| {
            let spec = Spec { damping, ..spec(&base, granularity) };
            let (graph, mut session) = start(backend, &base, &spec, &reference, Some(scores));
            for index in 0..3 {
                step(&mut session, &reference, index);
            }
            let begun = initial(&reference, &graph, Some(scores));
            (graph, begun, session.state().unwrap())
        };
        let (_, _, plain) = after(Backend::Host, 0.0);
        let (graph, begun, host) = after(Backend::Host, 1.0);
        let moved = |to: &[f32], from: &[f32]| to.iter().zip(from).map(|(a, b)| (a - b).abs()).sum::<f32>();
        for (i, parameter) in graph.trained.iter().enumerate() {
            let [plain, damped] = [&plain, &host].map(|state| moved(&state[3 * i], &begun[i]));
            match parameter.scores_of() {
                Some(tensor) => assert!(damped < 0.7 * plain, "{}: {damped} and {plain}", tensor.name),
                // It sees other masks, no more.
                None => assert!((damped - plain).abs() < 0.1 * plain, "{}: {damped} and {plain}", parameter.name),
            }
        }
        for backend in [Backend::Device, Backend::DeviceInParts] {
            let (_, _, device) = after(backend, 1.0);
            for (i, (host, device)) in host.iter().zip(&device).enumerate() {
                assert_close(&format!("{granularity} {i}"), host, device, 1e-4);
            }
        }
    }
}
